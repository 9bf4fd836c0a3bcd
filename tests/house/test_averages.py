"""What a run writes are averages of its weights; those of a short run must not be what it began with."""

import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.training.optimizer import ema_decay
from tests.house.test_golden import CONFIGS, ROOT, resolved


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_average_forgets_the_first_weights(config):
    """The share of the first weights, which a LoRA has at zero, in the averages after all steps."""
    run = resolved(config)
    kept = np.broadcast_to(ema_decay(run.optimizer, jnp.arange(run.train.steps)), run.train.steps)
    assert np.prod(kept, dtype=np.float64) < 0.05
