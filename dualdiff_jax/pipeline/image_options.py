"""The options that all calls share which draw images, and how they are checked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dualdiff_jax.arrays import Latents, TextEmbeddings
from dualdiff_jax.config.model import SamplingConfig
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.inputs import Seed
from dualdiff_jax.pipeline.noise_levels import given_levels, noise_levels, truncated
from dualdiff_jax.progress import Progress
from dualdiff_jax.sampling.flow_sampler import IMAGE_SAMPLERS
from dualdiff_jax.sampling.guidance import GUIDANCE_RULES
from dualdiff_jax.sampling.guidance_schedule import Piece, guidance_pieces

ZERO_STAR = "cfg_zero_star"
OF_GUIDANCE = ("guidance_rule", "guidance_interval", "zero_init_steps")  # options that do nothing without guidance


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What a caller may choose of a call that draws images; None stands for the model's own.

    Args:
        images_per_prompt: the images of one prompt follow each other.
        seed: in [0, 2**64); or one for each prompt.
        height: of the images in pixels, a multiple of what one image token covers.
        width: as ``height``.
        steps: of the sampler; ``heun`` evaluates the model twice in each but the last.
        sampler: a name in ``IMAGE_SAMPLERS`` (``flow_sampler``, equations 3 to 5).
        guidance_scale: up to 1 is no guidance, which halves the cost, as in the original.
        guidance_rule: a name in ``GUIDANCE_RULES`` (``guidance``).
        guidance_interval: (low, high) of sigma; only steps that begin there are guided (``guidance_schedule``).
        zero_init_steps: of ``cfg_zero_star``: so many first steps leave the noise as it is, without an evaluation.
        sigma_shift: resolution shift of the grid (``flow_sampler``, equation 1), or "resolution" (``noise_levels``).
        sigmas: (n,) noise levels in (0, 1] that fall, taken as they are, in place of ``steps`` and ``sigma_shift``; a 0
            follows them.
        max_sequence_length: tokens of a prompt; by default the model's ``text_length``.
        prompt_embeddings: (n, l, d), T5's output, in place of ``prompts``.
        negative_prompt_embeddings: (n or 1, l, d), in place of ``negative_prompt``.
        latents: (n, h', w', c), the noise to begin with in place of the seed's.
        progress: called after each batch with (examples finished, examples in all).
    """

    images_per_prompt: int | None = None
    seed: Seed = 0
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    guidance_rule: str | None = None
    guidance_interval: Sequence[float] | None = None
    zero_init_steps: int | None = None
    sigma_shift: float | str | None = None
    sigmas: Sequence[float] | np.ndarray | None = None
    max_sequence_length: int | None = None
    prompt_embeddings: TextEmbeddings | np.ndarray | None = None
    negative_prompt_embeddings: TextEmbeddings | np.ndarray | None = None
    latents: Latents | np.ndarray | None = None
    progress: Progress | None = None


def image_options(given: Mapping[str, Any]) -> ImageOptions:
    """The options that a caller names. Raises ``UserError`` where there is no such option."""
    inputs.check_names(given, [field.name for field in dataclasses.fields(ImageOptions)])
    return ImageOptions(**given)


def check_image_options(options: Mapping[str, Any]) -> None:
    """Checks what can be checked before there is a model. Raises ``UserError``."""
    if options.get("sigmas") is not None:
        given_levels(options["sigmas"], options.get("steps"), options.get("sigma_shift"))
    if options.get("guidance_interval") is not None:
        _interval(options["guidance_interval"])


class ImageSettings(NamedTuple):
    """How the images of a call are sampled, checked and complete."""

    sampler: str
    sigmas: np.ndarray  # (n + 1,) fp32
    guidance_scale: float
    guidance_rule: str
    guidance_interval: tuple[float, float]
    still_steps: int

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale > inputs.NO_GUIDANCE

    def pieces(self, every: int | None = None) -> list[Piece]:
        """The steps, cut where guidance changes, and after each ``every`` of them."""
        return guidance_pieces(
            self.sigmas,
            is_guided=self.is_guided,
            interval=self.guidance_interval,
            still_steps=self.still_steps,
            every=every,
        )

    @property
    def passes(self) -> int:
        """Passes of the MMDiT over one example: two in each evaluation of a guided step."""
        each, steps = IMAGE_SAMPLERS[self.sampler].evaluations, len(self.sigmas) - 1
        found = 0
        for first, last, kind in self.pieces():
            evaluations = each * (last - first) - (each - 1 if last == steps else 0)
            found += {"still": 0, "plain": 1, "guided": 2}[kind] * evaluations
        return found


def image_settings(
    default: SamplingConfig, size: tuple[int, int], options: ImageOptions, strength: float = 1.0
) -> ImageSettings:
    """The settings of a call. Raises ``UserError`` that names an option which is wrong, and what is allowed.

    Args:
        default: of the model.
        size: height and width of the images, in pixels.
        options: of the caller.
        strength: the part of the grid that is used (``noise_levels.truncated``); steps before it count as zero-init.
    """
    scale = inputs.setting("guidance_scale", options.guidance_scale, "guidance_scale", default.guidance_scale)
    if scale <= inputs.NO_GUIDANCE:
        _check_unguided(options, scale)
    rule = _choice("guidance_rule", options.guidance_rule, default.guidance_rule, GUIDANCE_RULES)
    zeros = inputs.setting("zero_init_steps", options.zero_init_steps, "zero_init_steps", default.zero_init_steps)
    if options.zero_init_steps is not None and rule != ZERO_STAR:
        raise UserError(f"zero_init_steps is for guidance_rule {ZERO_STAR}, and the rule is {rule}; leave it out")
    levels = noise_levels(default, size, steps=options.steps, sigma_shift=options.sigma_shift, sigmas=options.sigmas)
    steps, kept = len(levels) - 1, truncated(levels, strength)
    if rule == ZERO_STAR and scale > inputs.NO_GUIDANCE and zeros >= steps:  # whatever the strength
        raise UserError(f"zero_init_steps is {zeros} of {steps} steps, which leaves the noise as it is; give fewer")
    return ImageSettings(
        _choice("sampler", options.sampler, default.image_sampler, IMAGE_SAMPLERS),
        kept,
        scale,
        rule,
        _interval(default.guidance_interval if options.guidance_interval is None else options.guidance_interval),
        max(zeros - (len(levels) - len(kept)), 0) if rule == ZERO_STAR else 0,
    )


def _check_unguided(options: ImageOptions, scale: float) -> None:
    """Raises ``UserError`` for an option that a call without guidance would leave out silently."""
    for name in OF_GUIDANCE:
        if getattr(options, name) is not None:
            raise UserError(
                f"{name} is given, but guidance_scale is {scale:g}, and up to 1 is no guidance; give a larger "
                f"guidance_scale, or leave {name} out"
            )


def _choice(name: str, value: str | None, default: str, choices: Any) -> str:
    return inputs.choice(name, default if value is None else value, choices)


def _interval(value: Any) -> tuple[float, float]:
    hint = "give (low, high), noise levels in [0, 1], the lower one first"
    levels = inputs.numbers(value)
    if levels is None or levels.shape != (2,):
        raise UserError(f"guidance_interval is {quoted(value)}; {hint}")
    low, high = map(float, levels)
    if not 0.0 <= low <= high <= 1.0:  # false for NaN too
        raise UserError(f"guidance_interval is {quoted(value)}; {hint}")
    return low, high
