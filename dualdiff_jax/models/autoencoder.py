"""Images to latents and back.

The KL autoencoder is Stable Diffusion's (arXiv 2112.10752, appendix E; SD3's sizes: 2403.03206): levels of
residual blocks, each level at half the side of the one before, and one attention at the smallest.
(1)  mean, log_variance = ConvEncoder(images),   log_variance clipped to [-30, 20]
(2)  latents = (mean + exp(log_variance / 2) noise - shift) * scale
(3)  images = ConvDecoder(latents / scale + shift)
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from dualdiff_jax.arrays import Images, Key, Latents
from dualdiff_jax.config import AutoencoderConfig
from dualdiff_jax.models.activations import silu
from dualdiff_jax.models.attention import attention
from dualdiff_jax.models.convolution import Convolution
from dualdiff_jax.models.linear import Linear
from dualdiff_jax.models.norms import GroupNorm

LOG_VARIANCE = (-30.0, 20.0)


class Autoencoder(Protocol):
    """What the rest of the project knows of an autoencoder.

    Attributes:
        downscale: Pixels per latent, along each side.
    """

    downscale: int

    def encode(self, images: Images, rng: Key | None = None) -> Latents:
        """Latents of images.

        Args:
            images: (b, h, w, 3) in [-1, 1].
            rng: One key, or (b,) keys, one for each example, to sample the posterior; None gives its mode.

        Returns:
            (b, h', w', c) fp32.
        """
        ...

    def decode(self, latents: Latents) -> Images:
        """(b, h', w', c) -> (b, h, w, 3) fp32, nominally in [-1, 1], not clipped."""
        ...


class IdentityAutoencoder(nnx.Module):
    """Pixels are the latents: RGB unchanged, or its mean as one grey channel. For small images."""

    def __init__(self, config: AutoencoderConfig):
        self.channels, self.downscale = config.channels, config.downscale

    def encode(self, images: Images, rng: Key | None = None) -> Latents:
        """(b, h, w, 3) -> (b, h, w, c). The posterior is a point, so ``rng`` changes nothing."""
        del rng
        return images if self.channels == 3 else images.mean(axis=-1, keepdims=True)

    def decode(self, latents: Latents) -> Images:
        """(b, h, w, c) -> (b, h, w, 3)."""
        return latents if self.channels == 3 else jnp.repeat(latents, 3, axis=-1)


class ResidualBlock(nnx.Module):
    """x + Conv(silu(GN(Conv(silu(GN(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, inputs: int, outputs: int, groups: int, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = GroupNorm(inputs, groups), GroupNorm(outputs, groups)
        self.conv1 = Convolution(inputs, outputs, rngs=rngs)
        self.conv2 = Convolution(outputs, outputs, rngs=rngs)
        self.conv_shortcut = (
            None if inputs == outputs else Convolution(inputs, outputs, size=1, padding=(0, 0), rngs=rngs)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(silu(self.norm1(x)))
        y = self.conv2(silu(self.norm2(y)))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class PixelAttention(nnx.Module):
    """x + Out(attention of all pixels over all pixels), with one head as wide as the channels."""

    def __init__(self, width: int, groups: int, *, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(width, groups)
        self.qkv = Linear({"width": width}, {"projection": 3, "head_dim": width}, rngs=rngs)
        self.out = Linear({"head_dim": width}, {"width": width}, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        qkv = self.qkv(self.group_norm(x).reshape(b, h * w, c))
        q, k, v = jnp.unstack(qkv[:, :, :, None], axis=2)
        return x + self.out(attention(q, k, v, scale=c**-0.5)[:, :, 0]).reshape(x.shape)


class Middle(nnx.Module):
    """Residual block, attention, residual block, at the smallest side."""

    def __init__(self, width: int, groups: int, *, rngs: nnx.Rngs):
        self.first = ResidualBlock(width, width, groups, rngs=rngs)
        self.attention = PixelAttention(width, groups, rngs=rngs)
        self.second = ResidualBlock(width, width, groups, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.attention(self.first(x)))


# Change of side -> options of its convolution, before which ``up`` repeats every pixel.
RESAMPLING: dict[str, dict[str, Any]] = {
    "down": {"stride": 2, "padding": (0, 1)},
    "up": {"stride": 1, "padding": (1, 1)},
}


class Level(nnx.Module):
    """Residual blocks of one width, then a change of side: ``down`` halves it, ``up`` doubles it, None keeps it."""

    def __init__(
        self, inputs: int, width: int, depth: int, groups: int, *, resample: str | None = None, rngs: nnx.Rngs
    ):
        widths = [inputs] + [width] * depth
        self.blocks = nnx.List(ResidualBlock(a, b, groups, rngs=rngs) for a, b in zip(widths, widths[1:], strict=False))
        self.repeats = 2 if resample == "up" else 1
        self.resample = Convolution(width, width, **RESAMPLING[resample], rngs=rngs) if resample else None

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        if self.repeats > 1:
            x = x.repeat(self.repeats, axis=1).repeat(self.repeats, axis=2)
        return x if self.resample is None else self.resample(x)


class ConvEncoder(nnx.Module):
    """(b, h, w, 3) -> (b, h', w', 2c), the posterior's moments: means, then log-variances."""

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        widths, groups = config.level_widths, config.norm_groups
        self.conv_in = Convolution(3, widths[0], rngs=rngs)
        self.levels = nnx.List(
            Level(
                widths[max(index - 1, 0)],
                width,
                config.level_depth,
                groups,
                resample="down" if index < len(widths) - 1 else None,
                rngs=rngs,
            )
            for index, width in enumerate(widths)
        )
        self.middle = Middle(widths[-1], groups, rngs=rngs)
        self.norm_out = GroupNorm(widths[-1], groups)
        self.conv_out = Convolution(widths[-1], 2 * config.channels, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.conv_in(images)
        for level in self.levels:
            x = level(x)
        return self.conv_out(silu(self.norm_out(self.middle(x))))


class ConvDecoder(nnx.Module):
    """(b, h', w', c) -> (b, h, w, 3)."""

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        widths, groups = config.level_widths[::-1], config.norm_groups
        self.conv_in = Convolution(config.channels, widths[0], rngs=rngs)
        self.middle = Middle(widths[0], groups, rngs=rngs)
        self.levels = nnx.List(
            Level(
                widths[max(index - 1, 0)],
                width,
                config.level_depth + 1,
                groups,
                resample="up" if index < len(widths) - 1 else None,
                rngs=rngs,
            )
            for index, width in enumerate(widths)
        )
        self.norm_out = GroupNorm(widths[-1], groups)
        self.conv_out = Convolution(widths[-1], 3, rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        x = self.middle(self.conv_in(latents))
        for level in self.levels:
            x = level(x)
        return self.conv_out(silu(self.norm_out(x)))


class KLAutoencoder(nnx.Module):
    """Equations (1)-(3). Parameters are fp32; it computes in ``dtype`` and returns fp32."""

    def __init__(self, config: AutoencoderConfig, *, dtype: str, rngs: nnx.Rngs):
        self.shift, self.scale, self.dtype = config.shift, config.scale, jnp.dtype(dtype)
        self.downscale = config.downscale
        self.encoder = ConvEncoder(config, rngs=rngs)
        self.decoder = ConvDecoder(config, rngs=rngs)

    def posterior(self, images: Images) -> tuple[Latents, Latents]:
        """The posterior of images, before shift and scale. Equation (1).

        Args:
            images: (b, h, w, 3) in [-1, 1].

        Returns:
            Mean and log-variance, both (b, h', w', c) fp32.

        Raises:
            ValueError: A side is not a multiple of ``downscale``.
        """
        height, width = images.shape[1:3]
        if height % self.downscale or width % self.downscale:
            raise ValueError(f"images of {height} x {width} pixels do not divide by {self.downscale}")
        with jax.named_scope("autoencoder"):
            moments = self.encoder(images.astype(self.dtype)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE)

    def sample(self, mean: Latents, log_variance: Latents, rng: Key | None) -> Latents:
        """Equation (2).

        Args:
            mean: (b, h', w', c).
            log_variance: (b, h', w', c).
            rng: One key, or (b,) keys, one for each example; None gives the mode.

        Returns:
            (b, h', w', c) fp32.
        """
        if rng is not None:
            mean = mean + jnp.exp(0.5 * log_variance) * _noise(rng, mean.shape)
        return (mean - self.shift) * self.scale

    def encode(self, images: Images, rng: Key | None = None) -> Latents:
        """Equations (1) and (2); see ``Autoencoder.encode``."""
        return self.sample(*self.posterior(images), rng)

    def decode(self, latents: Latents) -> Images:
        """Equation (3); see ``Autoencoder.decode``."""
        with jax.named_scope("autoencoder"):
            return self.decoder((latents / self.scale + self.shift).astype(self.dtype)).astype(jnp.float32)


def _noise(rng: Key, shape: tuple[int, ...]) -> jax.Array:
    if rng.ndim:
        return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(rng)
    return jax.random.normal(rng, shape)


KINDS: dict[str, Callable[[AutoencoderConfig, str, nnx.Rngs], Autoencoder]] = {
    "identity": lambda config, dtype, rngs: IdentityAutoencoder(config),
    "kl": lambda config, dtype, rngs: KLAutoencoder(config, dtype=dtype, rngs=rngs),
}


def build_autoencoder(config: AutoencoderConfig, *, dtype: str, rngs: nnx.Rngs) -> Autoencoder:
    """The autoencoder that ``config.kind`` names.

    Args:
        config: Its kind and sizes.
        dtype: What it computes in.
        rngs: Draws the initial weights.

    Raises:
        ValueError: The kind is unknown.
    """
    if config.kind not in KINDS:
        raise ValueError(f"autoencoder kind {config.kind!r} is none of {', '.join(KINDS)}")
    return KINDS[config.kind](config, dtype, rngs)
