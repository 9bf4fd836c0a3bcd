"""Floating-point operations of a program, counted from the sizes of its networks, and the roofline of a chip.

Matrix products and convolutions only, a multiplication and an addition each. ``training/flops.py`` counts the
transformers; the autoencoder is counted here, convolution by convolution.
"""

from collections.abc import Callable, Mapping
from functools import partial

from dualdiff_jax.config import AutoencoderConfig, ModelConfig, RunConfig, SourceConfig
from dualdiff_jax.hardware import Chip
from dualdiff_jax.pipeline.image_options import ImageOptions, image_settings
from dualdiff_jax.training.flops import forward_flops, training_flops
from dualdiff_jax.training.trainable import Trainable

Flops = dict[str, float]  # part of the program -> operations
REMATERIALISATION = "rematerialisation"  # the part that computes once more what another part has computed


def program_flops(config: RunConfig, program: str, examples: int) -> Flops:
    """Operations of one call of a program, on all devices together.

    Args:
        config: the run's.
        program: a name in ``EXAMPLE_FLOPS``.
        examples: of one call. An example of training is one of each stream that is trained: a pair, if both are.

    Raises:
        ValueError: ``program`` is unknown.
    """
    if program not in EXAMPLE_FLOPS:
        raise ValueError(f"program {program!r} is none of {', '.join(EXAMPLE_FLOPS)}")
    return {part: examples * flops for part, flops in EXAMPLE_FLOPS[program](config).items()}


def planned_source(config: RunConfig) -> SourceConfig:
    """The source whose image size a plan of training assumes: the first of the first stream that has weight."""
    return next(source for source in config.read_sources if source.stream == config.objective.streams[0])


def _train(config: RunConfig, is_encoded: bool = False) -> Flops:
    """Where captions' embeddings and latents are stored, T5 reads the masked texts alone."""
    source, streams, trained = planned_source(config), config.objective.streams, Trainable(config).specs
    size = (source.height, source.width)
    found = [
        training_flops(config, *size, trained, stream, is_encoded=is_encoded and stream == "image")
        for stream in streams
    ]
    total = {part: sum(flops[part] for flops in found) for part in found[0]}
    mmdit = total["mmdit forward"]
    attention = len(streams) * forward_flops(config.model, *size, config.data.text_length)["mmdit.attention"]
    again = {"none": 0.0, "dots": 0.0, "offload": mmdit - attention, "save_attention": mmdit - attention, "full": mmdit}
    encode, _ = autoencoder_flops(config.model.autoencoder, *size)
    return {
        "mmdit forward": mmdit,
        "mmdit backward": total["mmdit backward"],
        REMATERIALISATION: again[config.train.remat],
        "t5": total["t5 forward"] + total["t5 backward"],
        "autoencoder": 0.0 if is_encoded else len(streams) * encode,
    }


def _text_to_image(config: RunConfig) -> Flops:
    sampling = config.model.sampling
    mmdit, t5 = _networks(config.model, sampling.height, sampling.width, sampling.text_length)
    _, decode = autoencoder_flops(config.model.autoencoder, sampling.height, sampling.width)
    settings = image_settings(sampling, (sampling.height, sampling.width), ImageOptions())
    return {"mmdit": settings.passes * mmdit, "t5": t5, "autoencoder": decode}


def _image_to_text(config: RunConfig) -> Flops:
    sampling = config.model.sampling
    mmdit, t5 = _networks(config.model, sampling.height, sampling.width, sampling.answer_length)
    encode, _ = autoencoder_flops(config.model.autoencoder, sampling.height, sampling.width)
    return {"mmdit": sampling.answer_steps * mmdit, "t5": sampling.answer_steps * t5, "autoencoder": encode}


# Program -> the operations of one example, by part.
EXAMPLE_FLOPS: Mapping[str, Callable[[RunConfig], Flops]] = {
    "train": _train,
    "train_encoded": partial(_train, is_encoded=True),
    "text_to_image": _text_to_image,
    "image_to_text": _image_to_text,
    "image_to_text_t5_8_bits": _image_to_text,
}


def _networks(config: ModelConfig, height: int, width: int, length: int) -> tuple[float, float]:
    """One forward pass of one example: (MMDiT, T5)."""
    flops = forward_flops(config, height, width, length)

    def total(network: str) -> float:
        return sum(value for name, value in flops.items() if name.startswith(network))

    return total("mmdit."), total("t5.")


def autoencoder_flops(config: AutoencoderConfig, height: int, width: int) -> tuple[float, float]:
    """Operations for one image of ``height`` x ``width`` pixels: (encode, decode). The identity costs nothing."""
    if config.kind == "identity":
        return 0.0, 0.0
    widths, side = config.level_widths, config.downscale
    smallest = (height // side) * (width // side)
    middle = _middle(widths[-1], smallest)
    encode = _conv(3, widths[0], height * width) + middle + _conv(widths[-1], 2 * config.channels, smallest)
    decode = _conv(config.channels, widths[-1], smallest) + middle + _conv(widths[0], 3, height * width)
    for level, outputs in enumerate(widths):
        pixels = height * width // 4**level
        encode += _level(widths[max(level - 1, 0)], outputs, config.level_depth, pixels)
        above = widths[min(level + 1, len(widths) - 1)]
        decode += _level(above, outputs, config.level_depth + 1, pixels)
        if level < len(widths) - 1:
            encode += _conv(outputs, outputs, pixels // 4)
        if level > 0:
            decode += _conv(outputs, outputs, 4 * pixels)
    return encode, decode


def _conv(inputs: int, outputs: int, pixels: float, size: int = 3) -> float:
    return 2.0 * size * size * inputs * outputs * pixels


def _block(inputs: int, outputs: int, pixels: float) -> float:
    shortcut = _conv(inputs, outputs, pixels, size=1) if inputs != outputs else 0.0
    return _conv(inputs, outputs, pixels) + _conv(outputs, outputs, pixels) + shortcut


def _level(inputs: int, outputs: int, depth: int, pixels: float) -> float:
    return _block(inputs, outputs, pixels) + (depth - 1) * _block(outputs, outputs, pixels)


def _middle(width: int, pixels: float) -> float:
    return 2 * _block(width, width, pixels) + 8.0 * width * width * pixels + 4.0 * width * pixels**2


def roofline(chip: Chip, flops: float, moved: float, sent: float, across: float) -> dict[str, float | str]:
    """A lower bound on the time of one call, from the rates of the data sheet.

    Args:
        chip: of every device.
        flops: operations of one device.
        moved: bytes through the memory of one device.
        sent: bytes that one device sends.
        across: those of ``sent`` that go to other nodes.

    Returns:
        Seconds for ``compute``, ``memory`` and ``network``; ``bound`` names the largest.
    """
    seconds = {
        "compute": flops / chip.flops,
        "memory": moved / chip.bandwidth,
        "network": chip.network.seconds(sent, across),
    }
    return {**seconds, "bound": max(seconds, key=lambda name: seconds[name])}
