"""The floating-point operations of one step, counted from the shapes of the weights.

Matrix products only, a multiplication and an addition each; two transformers, no autoencoder, nothing twice, and of the
MMDiT's two heads that of the example's stream:
(1)  forward      2 * kernel entries * tokens that meet the kernel, and 4 s^2 d a layer in attention over s tokens
(2)  backward     once more for the activations, and once more for each kernel that is trained; attention twice more
T5 has a backward pass only where something in it is trained, and none at all for captions whose embeddings are stored.
"""

import itertools
import math
from collections.abc import Collection

from dualdiff_jax.config import ModelConfig, RunConfig
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import is_kernel, network_of

HEADS = {"image": "mmdit.image_out.kernel", "text": "mmdit.text_out.kernel"}  # stream -> the head that it needs
PER_IMAGE = ("modulation", "timestep_embedding")  # maps that see one vector an example instead of its tokens


def step_flops(config: RunConfig, trained: Collection[str], *, has_text_embeddings: bool = False) -> float:
    """Operations of one update, on average over the height and width of the sources.

    Args:
        config: the run's.
        trained: names of the leaves that are trained.
        has_text_embeddings: whether the embeddings of captions are stored, so that T5 reads the text stream alone.

    Returns:
        Operations of all examples of a global batch together.
    """
    streams = config.objective.streams
    sources = [source for source in config.data.sources if source.stream == streams[0]]
    weights = sum(source.weight for source in sources)
    total = 0.0
    for source, stream in itertools.product(sources, streams):
        is_encoded = has_text_embeddings and stream == "image"
        flops = example_flops(config, source.height, source.width, trained, stream, is_encoded=is_encoded)
        total += source.weight / weights * flops
    return config.train.global_batch_size * total


def example_flops(
    config: RunConfig, height: int, width: int, trained: Collection[str], stream: str, *, is_encoded: bool = False
) -> float:
    """Operations of one example in training, forward and backward.

    Args:
        config: the run's.
        height: of the image, pixels.
        width: of the image, pixels.
        trained: names of the leaves that are trained.
        stream: ``image`` or ``text``, the example's.
        is_encoded: whether the embeddings of its text are stored.

    Returns:
        Operations of one example.
    """
    parts = training_flops(config, height, width, trained, stream, is_encoded=is_encoded)
    return sum(parts.values())


def training_flops(
    config: RunConfig, height: int, width: int, trained: Collection[str], stream: str, *, is_encoded: bool = False
) -> dict[str, float]:
    """The operations of ``example_flops``, by network and pass.

    Returns:
        ``mmdit forward``, ``mmdit backward``, ``t5 forward`` and ``t5 backward`` -> operations of one example.
    """
    has_backward = {"mmdit": True, "t5": any(name.startswith("t5.") for name in trained)}
    parts = {f"{network} {way}": 0.0 for network in has_backward for way in ("forward", "backward")}
    for name, flops in forward_flops(config.model, height, width, config.data.text_length, stream).items():
        network = network_of(name)
        if is_encoded and network == "t5":
            continue
        is_trained = not is_kernel(name) or name in trained  # attention has one operand more in place of a kernel
        parts[f"{network} forward"] += flops
        parts[f"{network} backward"] += flops * has_backward[network] * (1 + is_trained)
    return parts


def forward_flops(
    config: ModelConfig, height: int, width: int, length: int, stream: str | None = None
) -> dict[str, float]:
    """Operations of one example by kernel, and by network for attention. Equation (1).

    Args:
        config: the model's.
        height: of the image, pixels.
        width: of the image, pixels.
        length: of the text, tokens.
        stream: ``image`` or ``text``, whose head alone is counted; None counts both.

    Returns:
        Name of a kernel, ``mmdit.attention`` or ``t5.attention`` -> operations of one example.
    """
    unused = {head for stream_of_head, head in HEADS.items() if stream not in (None, stream_of_head)}
    patch = config.mmdit.patch_size * config.autoencoder.downscale
    image = (height // patch) * (width // patch)
    flops: dict[str, float] = {}
    for name, spec in leaf_specs(config).items():
        if not is_kernel(name) or name.startswith("autoencoder.") or name in unused:
            continue
        is_image = ".image" in name or "patch_embedding" in name
        tokens = 1 if any(part in name for part in PER_IMAGE) else image if is_image else length
        flops[name] = 2.0 * math.prod(spec.shape) * tokens
    mmdit, t5 = config.mmdit, config.t5
    flops["mmdit.attention"] = 4.0 * mmdit.depth * (image + length) ** 2 * mmdit.width
    flops["t5.attention"] = 4.0 * t5.depth * length**2 * t5.heads * t5.head_dim
    return flops
