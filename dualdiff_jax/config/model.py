"""The model: sizes of its three networks, and the defaults of sampling."""

from collections.abc import Iterator
from typing import Literal

from dualdiff_jax.config.fields import bounded, frozen, in_units, pixel_count, token_count

MOST_WEIGHTS = 2**41  # bytes of all weights in float32, forty times those of the published model
MOST_POSITIONS = 2**30  # bytes of the position table, five times those of the published model
MOST_STEPS = 10_000  # of a sampler


@frozen
class MMDiTConfig:
    """Sizes of the joint transformer (arXiv 2403.03206, section 4; 2501.00289, section 3)."""

    depth: int = bounded(low=1, high=1024)  # joint blocks
    width: int = bounded(low=2, high=65536)  # of both residual streams
    heads: int = bounded(low=1, high=4096)
    vocab_size: int = bounded(low=4, high=2**21)  # outputs of the text head
    mlp_ratio: int = bounded(default=4, low=1, high=64)
    patch_size: int = bounded(default=2, low=1, high=64)  # latents per token side
    position_grid: int = bounded(default=192, low=1, high=4096)  # side of the fixed position table
    position_base: int = bounded(default=64, low=1)  # grid steps that span one unit of the training resolution
    null_image_tokens: int = bounded(default=8, low=1, high=4096)  # stand for the image where a text has none

    @property
    def size(self) -> int:
        """About how many weights it has: kernels alone."""
        blocks = self.depth * 2 * (10 + 2 * self.mlp_ratio) * self.width**2
        return blocks + self.vocab_size * self.width

    def contradictions(self) -> Iterator[str]:
        table = 4 * self.position_grid**2 * self.width
        if table > MOST_POSITIONS:
            yield (
                f"position_grid {self.position_grid} with width {self.width}: the position table would take "
                f"{in_units(table)}, and it may take {in_units(MOST_POSITIONS)}"
            )
        if self.width % self.heads:
            yield f"width {self.width} is not a multiple of heads {self.heads}"
        if self.width % 4:
            yield f"width {self.width} is not a multiple of 4, which the 2-D sinusoids need"


@frozen
class T5Config:
    """Sizes of the text encoder, T5 v1.1 (arXiv 1910.10683, 2002.05202)."""

    vocab_size: int = bounded(low=4, high=2**21)  # embedding rows
    width: int = bounded(low=1, high=65536)
    depth: int = bounded(low=1, high=1024)
    heads: int = bounded(low=1, high=4096)
    head_dim: int = bounded(low=1, high=4096)
    mlp_width: int = bounded(low=1, high=2**20)
    relative_buckets: int = bounded(default=32, low=4, high=2**16)
    relative_max_distance: int = bounded(default=128, low=4)

    @property
    def size(self) -> int:
        """About how many weights it has: kernels and the embedding."""
        block = 4 * self.width * self.heads * self.head_dim + 3 * self.width * self.mlp_width
        return self.vocab_size * self.width + self.depth * block


@frozen
class AutoencoderConfig:
    """Images to latents.

    ``identity``: pixels are the latents; 1 channel is their mean, 3 are RGB.
    ``kl``: SD3's variational autoencoder; the fields from ``level_widths`` on are its own.
    """

    kind: Literal["identity", "kl"] = "identity"
    channels: int = bounded(default=3, low=1, high=4096)  # of the latents
    level_widths: tuple[int, ...] = bounded(
        default=(128, 256, 512, 512), low=1, high=16384
    )  # from the pixels on; each level has half the side of the one before
    level_depth: int = bounded(
        default=2, low=1, high=64
    )  # residual blocks of an encoder level; the decoder's have one more
    norm_groups: int = bounded(default=32, low=1, high=16384)
    shift: float = bounded(default=0.0609, low=-1e4, high=1e4)  # latents = (posterior sample - shift) * scale
    scale: float = bounded(default=1.5305, low=1e-6, high=1e6)

    @property
    def size(self) -> int:
        """About how many weights it has: the convolutions of both halves."""
        if self.kind == "identity":
            return 0
        return sum(2 * 9 * 2 * (self.level_depth + 1) * width**2 for width in self.level_widths)

    @property
    def downscale(self) -> int:
        """Pixels per latent side."""
        return 1 if self.kind == "identity" else 2 ** (len(self.level_widths) - 1)

    def contradictions(self) -> Iterator[str]:
        if self.kind == "identity" and self.channels not in (1, 3):
            yield f"channels is {self.channels}, but the identity autoencoder has 1 (grey) or 3 (RGB)"
        if len(self.level_widths) > 10:
            yield f"level_widths has {len(self.level_widths)} levels; an image halves at most 9 times"
        if not self.level_widths:
            yield "level_widths is empty; give a width for each level"
        for width in dict.fromkeys(self.level_widths):
            if width % self.norm_groups:
                yield f"level_widths has {width}, which is not a multiple of norm_groups {self.norm_groups}"


@frozen
class SamplingConfig:
    """The pipeline's defaults, for a caller who names nothing else. A model folder stores them with the weights."""

    height: int = pixel_count()
    width: int = pixel_count()
    text_length: int = token_count(256)  # of a prompt for text to image
    image_steps: int = bounded(default=28, low=1, high=MOST_STEPS)
    guidance_scale: float = bounded(default=7.0, low=0.0, high=1000.0)  # up to 1 is no guidance
    image_sampler: Literal["euler", "heun", "dpm++2m"] = "euler"
    guidance_rule: Literal["cfg", "cfg_zero_star"] = "cfg"
    guidance_interval: tuple[float, ...] = bounded(default=(0.0, 1.0), low=0.0, high=1.0)  # (low, high) of sigma
    zero_init_steps: int = bounded(default=1, low=0, high=MOST_STEPS)  # of cfg_zero_star: first steps without velocity
    sigma_shift: float = bounded(default=3.0, low=1e-3, high=1000.0)  # of the sigma grid; 1 is none
    sigma_shift_rule: Literal["fixed", "resolution"] = "fixed"  # resolution: times sqrt(pixels / height / width)
    caption_length: int = token_count(256)
    caption_steps: int = bounded(default=128, low=1, high=MOST_STEPS)
    answer_length: int = token_count(128)
    answer_steps: int = bounded(default=32, low=1, high=MOST_STEPS)
    text_order: Literal["ancestral", "confidence", "threshold", "entropy_bound"] = "ancestral"
    text_threshold: float = bounded(default=0.9, low=0.0, high=1.0)  # of the order threshold: a probability
    text_entropy_bound: float = bounded(default=0.1, low=0.0, high=1e9)  # of the order entropy_bound, in nats
    text_guidance_scale: float = bounded(default=1.0, low=0.0, high=1000.0)  # up to 1 is no guidance
    anchor_end: bool = True  # whether a caption's last token is given as </s>, as all training captions have it
    batch_size: int = bounded(default=16, low=1, high=65536)  # examples that go through the model together

    def contradictions(self) -> Iterator[str]:
        if len(self.guidance_interval) != 2 or self.guidance_interval[0] > self.guidance_interval[1]:
            yield f"guidance_interval is {self.guidance_interval}; give two numbers, the lower one first"


@frozen
class ModelConfig:
    """A model: what a model folder stores of the config, enough to load it and to sample."""

    mmdit: MMDiTConfig
    t5: T5Config
    autoencoder: AutoencoderConfig
    sampling: SamplingConfig
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    attention: Literal["auto", "xla", "cudnn", "splash", "splash_interpreted"] = "auto"  # the MMDiT's kernel

    def contradictions(self) -> Iterator[str]:
        sizes = {"mmdit": self.mmdit.size, "t5": self.t5.size, "autoencoder": self.autoencoder.size}
        if 4 * sum(sizes.values()) > MOST_WEIGHTS:
            parts = ", ".join(f"{name} {in_units(4 * size)}" for name, size in sizes.items())
            yield f"the weights would take {parts} in float32, and they may take {in_units(MOST_WEIGHTS)} together"
        if self.t5.vocab_size < self.mmdit.vocab_size:
            yield f"t5.vocab_size {self.t5.vocab_size} is below mmdit.vocab_size {self.mmdit.vocab_size}"
