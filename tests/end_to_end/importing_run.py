"""As ``reading_run``, but its workers never get past their imports."""

import os
import runpy
import sys
import time

import dualdiff_jax  # noqa: F401 - what every worker imports first, and for whose sake the others are slow
from tests.end_to_end.command import HANG

if __name__ == "__main__":
    runpy.run_module("tests.end_to_end.reading_run", run_name="__main__")
else:
    os.write(sys.stdout.fileno(), b"importing\n")  # in one piece, beside those of other workers
    time.sleep(HANG)
