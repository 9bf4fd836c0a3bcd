"""The model: sizes of its three networks, and the defaults of sampling."""

from collections.abc import Iterator
from typing import Literal

from dualdiff_jax.config.fields import bounded, frozen


@frozen
class MMDiTConfig:
    """Sizes of the joint transformer (arXiv 2403.03206, section 4; 2501.00289, section 3)."""

    depth: int = bounded(low=1)  # joint blocks
    width: int = bounded(low=2)  # of both residual streams
    heads: int = bounded(low=1)
    vocab_size: int = bounded(low=4)  # outputs of the text head
    mlp_ratio: int = bounded(default=4, low=1)
    patch_size: int = bounded(default=2, low=1)  # latents per token side
    position_grid: int = bounded(default=192, low=1)  # side of the fixed position table
    position_base: int = bounded(default=64, low=1)  # grid steps that span one unit of the training resolution
    null_image_tokens: int = bounded(default=8, low=1)  # stand for the image where a text has none

    def contradictions(self) -> Iterator[str]:
        if self.width % self.heads:
            yield f"width {self.width} is not a multiple of heads {self.heads}"
        if self.width % 4:
            yield f"width {self.width} is not a multiple of 4, which the 2-D sinusoids need"


@frozen
class T5Config:
    """Sizes of the text encoder, T5 v1.1 (arXiv 1910.10683, 2002.05202)."""

    vocab_size: int = bounded(low=4)  # embedding rows
    width: int = bounded(low=1)
    depth: int = bounded(low=1)
    heads: int = bounded(low=1)
    head_dim: int = bounded(low=1)
    mlp_width: int = bounded(low=1)
    relative_buckets: int = bounded(default=32, low=4)
    relative_max_distance: int = bounded(default=128, low=4)


@frozen
class AutoencoderConfig:
    """Images to latents.

    ``identity``: pixels are the latents; 1 channel is their mean, 3 are RGB.
    ``kl``: SD3's variational autoencoder; the fields from ``level_widths`` on are its own.
    """

    kind: Literal["identity", "kl"] = "identity"
    channels: int = bounded(default=3, low=1)  # of the latents
    level_widths: tuple[int, ...] = bounded(
        default=(128, 256, 512, 512), low=1
    )  # from the pixels on; each level has half the side of the one before
    level_depth: int = bounded(default=2, low=1)  # residual blocks of an encoder level; a decoder level has one more
    norm_groups: int = bounded(default=32, low=1)
    shift: float = 0.0609  # latents = (posterior sample - shift) * scale
    scale: float = bounded(default=1.5305, low=1e-9)

    @property
    def downscale(self) -> int:
        """Pixels per latent side."""
        return 1 if self.kind == "identity" else 2 ** (len(self.level_widths) - 1)

    def contradictions(self) -> Iterator[str]:
        if self.kind == "identity" and self.channels not in (1, 3):
            yield f"channels is {self.channels}, but the identity autoencoder has 1 (grey) or 3 (RGB)"
        if not self.level_widths:
            yield "level_widths is empty; give a width for each level"
        for width in dict.fromkeys(self.level_widths):
            if width % self.norm_groups:
                yield f"level_widths has {width}, which is not a multiple of norm_groups {self.norm_groups}"


@frozen
class SamplingConfig:
    """The pipeline's defaults, for a caller who names nothing else. A model folder stores them with the weights."""

    height: int = bounded(low=1)  # pixels
    width: int = bounded(low=1)
    text_length: int = bounded(default=256, low=2)  # tokens of a prompt for text to image
    image_steps: int = bounded(default=28, low=1)
    guidance_scale: float = bounded(default=7.0, low=1.0)  # 1 is no guidance
    sigma_shift: float = bounded(default=3.0, low=1e-3)  # of the sigma grid; 1 is none
    caption_length: int = bounded(default=256, low=2)
    caption_steps: int = bounded(default=128, low=1)
    answer_length: int = bounded(default=128, low=2)
    answer_steps: int = bounded(default=32, low=1)
    text_order: Literal["ancestral", "confidence"] = "ancestral"
    batch_size: int = bounded(default=16, low=1)  # examples that go through the model together


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
        if self.t5.vocab_size < self.mmdit.vocab_size:
            yield f"t5.vocab_size {self.t5.vocab_size} is below mmdit.vocab_size {self.mmdit.vocab_size}"
