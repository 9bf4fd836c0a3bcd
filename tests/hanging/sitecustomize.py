"""A file that never comes, as on a drive that is gone: opening a path that contains HANG_ON waits.

Python imports this module at its start if its folder is on PYTHONPATH, so processes that a test starts wait, too.
"""

import os
import threading

released = threading.Event()  # ends the wait of every thread of this process
_open = os.open


def waiting_open(path, *arguments, **options):
    name = os.environ.get("HANG_ON")
    while name and name in str(path) and not released.wait(0.1):
        pass
    return _open(path, *arguments, **options)


if os.environ.get("HANG_ON"):
    os.open = waiting_open
