"""A narrow Inception: all of the true network's units and shapes of pictures, with a sixteenth of its channels."""

from pathlib import Path

import numpy as np
import torch

from dualdiff_jax.evaluation.fid.inception_weights import leaf_shapes, torch_key, torch_shape

DIVISOR = 16


def tensors(divisor: int = DIVISOR) -> dict[str, torch.Tensor]:
    """A state dict as pytorch-fid's file has it: He's kernels, statistics that are not those of the standard normal."""
    rng = np.random.default_rng(0)
    found = {}
    for leaf, shape in leaf_shapes(divisor).items():
        size = torch_shape(leaf, shape)
        if leaf.endswith(".kernel"):
            array = rng.standard_normal(size) * (2 / np.prod(size[1:])) ** 0.5
        else:
            low, high = (0.5, 1.5) if leaf.endswith((".scale", ".variance")) else (-0.1, 0.1)
            array = rng.uniform(low, high, size)
        found[torch_key(leaf)] = torch.tensor(array, dtype=torch.float32)
    found["fc.weight"] = torch.zeros(1008, 2048 // divisor)
    found["fc.bias"] = torch.zeros(1008)
    return found


def write(file: Path, divisor: int = DIVISOR) -> Path:
    torch.save(tensors(divisor), file)
    return file
