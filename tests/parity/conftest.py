"""Settings of all parity tests: new seeds in every run, one thread of torch, products in full precision."""

import os
import secrets

import jax
import pytest
import torch

FRESH_SEEDS = 3
SEEDS = [pytest.param(number, marks=[pytest.mark.slow] if number else []) for number in range(FRESH_SEEDS)]


@pytest.fixture(params=SEEDS, ids=lambda number: f"draw{number}")
def seed(request: pytest.FixtureRequest) -> int:
    """A random seed, printed where a test fails. PARITY_SEED=<seed> repeats it."""
    chosen = os.environ.get("PARITY_SEED")
    seed = int(chosen) if chosen else secrets.randbits(31)
    print(f"PARITY_SEED={seed}")
    return seed


@pytest.fixture(autouse=True)
def plain_arithmetic():
    """Both sides compute products in fp32 on every backend; torch uses one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with jax.default_matmul_precision("highest"):
        yield
    torch.set_num_threads(threads)
