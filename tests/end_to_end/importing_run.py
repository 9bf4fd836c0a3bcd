"""As ``reading_run``, but its workers never get past their imports."""

import runpy
import time

import dualdiff_jax  # noqa: F401 - what every worker imports first, and for whose sake the others are slow
from tests.end_to_end.command import HANG

if __name__ == "__main__":
    runpy.run_module("tests.end_to_end.reading_run", run_name="__main__")
else:
    print("importing", flush=True)
    time.sleep(HANG)
