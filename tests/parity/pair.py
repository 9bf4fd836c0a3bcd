"""Our model and its reference with the same random weights."""

import dataclasses
import functools

import numpy as np
from transformers import T5EncoderModel

from convert.state_dict import from_torch
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.resolution import resolve
from tests.parity.reference import ReferenceMMDiT, arrays, randomise, reference_t5

_SIZES = {
    "mmdit": {"depth": 2, "width": 24, "heads": 3, "vocab_size": 29, "position_grid": 9, "position_base": 4},
    "t5": {
        "vocab_size": 31,
        "width": 20,
        "depth": 2,
        "heads": 3,
        "head_dim": 8,
        "mlp_width": 28,
        "relative_buckets": 8,
        "relative_max_distance": 12,
    },
    "autoencoder": {"kind": "identity", "channels": 3},
    "sampling": {"height": 8, "width": 8},
    "compute_dtype": "float32",
}
CONFIG: ModelConfig = resolve(_SIZES, ModelConfig)
UNPATCHED: ModelConfig = resolve(
    {**_SIZES, "mmdit": {**_SIZES["mmdit"], "patch_size": 1}, "autoencoder": {"channels": 1}}, ModelConfig
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """The torch networks, and their weights as ours."""

    config: ModelConfig
    mmdit: ReferenceMMDiT
    t5: T5EncoderModel
    weights: dict[str, np.ndarray]


@functools.lru_cache(maxsize=2)
def _networks(config: ModelConfig) -> tuple[ReferenceMMDiT, T5EncoderModel]:
    return ReferenceMMDiT(config), reference_t5(config)


def random_pair(config: ModelConfig, seed: int) -> Pair:
    """Every weight a function of the seed. The torch modules are the same objects at each call."""
    mmdit, t5 = _networks(config)
    for number, network in enumerate((mmdit, t5)):
        randomise(network, 2 * seed + number)
        network.zero_grad(set_to_none=True)
    return Pair(config, mmdit, t5, from_torch({**arrays(mmdit), **arrays(t5)}, config))
