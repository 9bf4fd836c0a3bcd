"""The model and its reference in torch with the same random weights."""

import dataclasses
import functools

import numpy as np
from diffusers import AutoencoderKL
from torch import nn
from transformers import T5EncoderModel

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.resolve import resolve
from tests.parity.reference import ReferenceMMDiT, arrays, randomise, reference_autoencoder, reference_t5
from tests.torch_weights import from_torch

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
_KL = {
    "kind": "kl",
    "channels": 5,
    "level_widths": (8, 12, 20),
    "level_depth": 2,
    "norm_groups": 4,
    "shift": 0.3,
    "scale": 1.7,
}


def sized(**sections: dict) -> ModelConfig:
    """The tiny model with some fields of its sections changed; ``sections`` are dicts of these fields."""
    changed = {name: _SIZES[name] | fields for name, fields in sections.items()}
    return resolve(_SIZES | changed, ModelConfig)


CONFIG: ModelConfig = sized()
UNPATCHED: ModelConfig = sized(mmdit={"patch_size": 1}, autoencoder={"channels": 1})
KL: ModelConfig = sized(autoencoder=_KL)


@dataclasses.dataclass(frozen=True)
class Pair:
    """The torch networks, and their weights by leaf name."""

    config: ModelConfig
    mmdit: ReferenceMMDiT
    t5: T5EncoderModel
    autoencoder: AutoencoderKL | None  # None where the autoencoder has no weights
    weights: dict[str, np.ndarray]

    def state_dict(self) -> dict[str, np.ndarray]:
        """The tensors of all torch networks."""
        return _state_dict((self.mmdit, self.t5, self.autoencoder))


@functools.lru_cache(maxsize=4)
def _networks(config: ModelConfig) -> tuple[ReferenceMMDiT, T5EncoderModel, AutoencoderKL | None]:
    autoencoder = reference_autoencoder(config) if config.autoencoder.kind == "kl" else None
    return ReferenceMMDiT(config), reference_t5(config), autoencoder


def _state_dict(networks: tuple[nn.Module | None, ...]) -> dict[str, np.ndarray]:
    return {key: tensor for network in networks if network for key, tensor in arrays(network).items()}


def random_pair(config: ModelConfig, seed: int) -> Pair:
    """A pair whose every weight is a function of the seed. Calls with one config share their torch modules."""
    networks = _networks(config)
    for number, network in enumerate(networks):
        if network is not None:
            randomise(network, len(networks) * seed + number)
            network.zero_grad(set_to_none=True)
    return Pair(config, *networks, from_torch(_state_dict(networks), config))
