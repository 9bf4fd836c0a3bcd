"""Ends a process that reads data with the run that started it, from its first import on."""

import os
import sys
import threading
import time

NAME = "grain-process-prefetch"  # how Grain's names of such processes begin
POLL = 0.5  # seconds between two checks


def end_with_run() -> None:
    """Watches the parent in a process that Grain has started to read; elsewhere this does nothing.

    Until such a process calls our code it imports for many seconds, and would outlive a run that is killed meanwhile.
    """
    process = sys.modules.get("multiprocessing.process")  # a process that was started by that package has it
    if process is None or not process.current_process().name.startswith(NAME):
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, name="run-watch", daemon=True).start()
