"""The noise levels of a call: of the model's grid, or the caller's own."""

import math
from typing import Any

import numpy as np

from dualdiff_jax.config.model import SamplingConfig
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline.inputs import numbers, setting
from dualdiff_jax.sampling.flow_sampler import sigma_grid

BY_RESOLUTION = "resolution"


def noise_levels(
    default: SamplingConfig,
    size: tuple[int, int],
    *,
    steps: int | None,
    sigma_shift: float | str | None,
    sigmas: Any,
) -> np.ndarray:
    """The noise levels of a call.

    Args:
        default: settings for what is None.
        size: height and width of the images, in pixels.
        steps: of the grid.
        sigma_shift: of the grid; "resolution" for the model's own times sqrt(m / n) at m pixels, where n are those of
            the model's own size (arXiv 2403.03206, equation 23: levels of equal signal to noise).
        sigmas: (n,) in (0, 1], falling, in place of a grid; the 0 at the end may be left out.

    Returns:
        (n + 1,) fp32.
    """
    if sigmas is None:
        shift = _shift(default, size, sigma_shift)
        return sigma_grid(setting("steps", steps, "image_steps", default.image_steps), shift)
    return given_levels(sigmas, steps, sigma_shift)


def given_levels(sigmas: Any, steps: int | None, sigma_shift: float | str | None) -> np.ndarray:
    """``noise_levels`` of a caller who gives ``sigmas``."""
    if steps is not None or sigma_shift is not None:
        raise UserError("sigmas is given beside steps or sigma_shift, which it replaces; leave these out")
    given = numbers(sigmas)
    if given is None or given.ndim != 1:
        raise UserError(f"sigmas is {quoted(sigmas)}; give a list of noise levels that fall from at most 1")
    levels = given.astype(np.float32)  # in which they are used, and in which they have to fall
    levels = levels if len(levels) and levels[-1] == 0.0 else np.append(levels, np.float32(0.0))
    setting("the number of sigmas", len(levels) - 1, "image_steps")
    smallest = np.finfo(np.float32).tiny  # less is 0 to the device
    if not (levels[0] <= 1.0 and np.all(np.diff(levels) < 0.0) and levels[-2] >= smallest):  # false for NaN too
        raise UserError(f"sigmas is {quoted(sigmas)}; give noise levels in (0, 1] that fall, also as 32-bit floats")
    return levels


def _shift(default: SamplingConfig, size: tuple[int, int], sigma_shift: float | str | None) -> float:
    rule = default.sigma_shift_rule if sigma_shift is None else sigma_shift
    if isinstance(rule, str) and rule == BY_RESOLUTION:
        return default.sigma_shift * math.sqrt(size[0] * size[1] / (default.height * default.width))
    if isinstance(sigma_shift, str):
        raise UserError(f"sigma_shift is {quoted(sigma_shift)}; give a number, or {BY_RESOLUTION!r}")
    return setting("sigma_shift", sigma_shift, "sigma_shift", default.sigma_shift)


def truncated(levels: np.ndarray, strength: float) -> np.ndarray:
    """The last part of a grid, as SD3's image to image of diffusers takes it: n steps keep about ``strength`` n.

    Args:
        levels: (n + 1,).
        strength: in (0, 1]; 1 keeps all.

    Returns:
        (m + 1,) with 1 <= m <= n.
    """
    steps = len(levels) - 1
    return levels[min(int(steps - steps * strength), steps - 1) :]
