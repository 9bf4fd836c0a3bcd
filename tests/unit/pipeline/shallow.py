"""A pipeline with one block a network, which compiles in half the time of two."""

import dataclasses
from pathlib import Path

from demo.data import write_tokenizer
from dualdiff_jax import DualDiffusionPipeline
from dualdiff_jax.data.tokenizer import Tokenizer
from tests.unit.pipeline.test_pipeline import config
from tests.unit.tiny import random_weights


def shallow_pipeline(folder: Path) -> DualDiffusionPipeline:
    """Its tokenizer is written to ``folder``."""
    write_tokenizer(folder)
    tokenizer = Tokenizer(folder)
    sizes = config(tokenizer.vocab_size)
    sizes = dataclasses.replace(sizes, mmdit=dataclasses.replace(sizes.mmdit, depth=1))
    return DualDiffusionPipeline(sizes, random_weights(sizes), tokenizer)
