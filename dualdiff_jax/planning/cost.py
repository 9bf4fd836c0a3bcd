"""How many operations a program is, counted from the sizes of its networks, and how fast a chip could be with it.

Matrix products and convolutions only, a multiplication and an addition each. ``training/flops.py`` counts the
transformers; the autoencoder is counted here, convolution by convolution.
"""

from dualdiff_jax.config import AutoencoderConfig, ModelConfig, RunConfig
from dualdiff_jax.hardware import Chip
from dualdiff_jax.training.flops import forward_flops

Flops = dict[str, float]  # part -> operations of one call, on all devices


def program_flops(config: RunConfig, of: str, examples: int) -> Flops:
    """By part; an example of training is a pair, one of each stream."""
    model, sampling = config.model, config.model.sampling
    if of == "train":
        source = next(source for source in config.data.sources if source.task == "image_generation")
        return {part: examples * flops for part, flops in _pair(config, source.height, source.width).items()}
    length = sampling.text_length if of == "text_to_image" else sampling.answer_length
    mmdit, t5 = _networks(model, sampling.height, sampling.width, length)
    encode, decode = autoencoder_flops(model.autoencoder, sampling.height, sampling.width)
    if of == "text_to_image":
        passes = 2 if sampling.guidance_scale != 1.0 else 1
        parts = {"mmdit": passes * sampling.image_steps * mmdit, "t5": t5, "autoencoder": decode}
    else:
        parts = {"mmdit": sampling.answer_steps * mmdit, "t5": sampling.answer_steps * t5, "autoencoder": encode}
    return {part: examples * flops for part, flops in parts.items()}


def _pair(config: RunConfig, height: int, width: int) -> Flops:
    mmdit, t5 = _networks(config.model, height, width, config.data.text_length)
    attention = forward_flops(config.model, height, width, config.data.text_length)["mmdit.attention"]
    again = {"none": 0.0, "dots": 0.0, "offload": mmdit - attention, "save_attention": mmdit - attention, "full": mmdit}
    return {
        "mmdit forward": 2 * mmdit,
        "mmdit backward": 4 * mmdit,
        "rematerialisation": 2 * again[config.train.remat],
        "t5": 2 * t5,
        "autoencoder": 2 * autoencoder_flops(config.model.autoencoder, height, width)[0],
    }


def _networks(config: ModelConfig, height: int, width: int, length: int) -> tuple[float, float]:
    """A forward pass of the MMDiT and of T5, of one example."""
    flops = forward_flops(config, height, width, length)
    return tuple(sum(value for name, value in flops.items() if name.startswith(n)) for n in ("mmdit.", "t5."))


def autoencoder_flops(config: AutoencoderConfig, height: int, width: int) -> tuple[float, float]:
    """(encode, decode) of one image; the identity costs nothing."""
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
    """Seconds that one device needs at the least for operations, memory and network; the largest is the bound.

    flops, bytes moved through memory, bytes sent, and those of them that go to other nodes are one device's.
    """
    seconds = {
        "compute": flops / chip.flops,
        "memory": moved / chip.bandwidth,
        "network": (sent - across) / chip.network.within + across / chip.network.across,
    }
    return {**seconds, "bound": max(seconds, key=seconds.get)}
