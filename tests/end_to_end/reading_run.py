"""Reads batches in worker processes, a printed line each: ``python -m tests.end_to_end.reading_run FOLDER WORKERS``."""

import sys
import time
from pathlib import Path

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from tests.small_run import small_config

if __name__ == "__main__":  # the workers import this module too
    config = small_config(Path(sys.argv[1]))
    config.data.workers = int(sys.argv[2])
    run = resolve(config)
    data = Mixture(run.data, Tokenizer(run.data.tokenizer), seed=0, global_batch_size=4)
    for _ in data.batches():
        print("batch", flush=True)
        time.sleep(0.1)
