"""A file that never comes, as on a drive that is gone: opening a path that contains HANG_ON waits.

The drive goes once the run has begun: the check of the data at the start still reads it.

Python imports this module at its start if its folder is on PYTHONPATH, so processes that a test starts wait, too.
"""

import os
import sys
import threading

released = threading.Event()  # ends the wait of every thread of this process
_open = os.open


def waiting_open(path, *arguments, **options):
    name = os.environ.get("HANG_ON")
    if name and name in str(path) and is_checked():
        return _open(path, *arguments, **options)
    while name and name in str(path) and not released.wait(0.1):
        pass
    return _open(path, *arguments, **options)


def is_checked() -> bool:
    """Whether this thread computes the fingerprint of the data."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.endswith("fingerprint.py"):
        frame = frame.f_back
    return frame is not None


if os.environ.get("HANG_ON"):
    os.open = waiting_open
