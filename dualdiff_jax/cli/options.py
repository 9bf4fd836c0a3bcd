"""What the flags of the command line give to the pipeline's calls, by the calls' own names; None is not given."""

from typing import Any

from dualdiff_jax.cli import arguments, text_flags
from dualdiff_jax.errors import UserError


def loading() -> dict[str, Any]:
    """The options of every mode that loads a model."""
    return {
        "seed": arguments.SEED.value[0] if len(arguments.SEED.value) == 1 else list(arguments.SEED.value),
        "as_json": arguments.FORMAT.value == "json",
        "overwrite": arguments.OVERWRITE.value,
        "height": arguments.HEIGHT.value,
        "width": arguments.WIDTH.value,
        "dtype": arguments.DTYPE.value,
        "t5_bits": None if arguments.T5_BITS.value is None else int(arguments.T5_BITS.value),
    }


def sampling() -> dict[str, Any]:
    """Those, and the sampler's steps."""
    return {"steps": arguments.STEPS.value, **loading()}


def reading() -> dict[str, Any]:
    """How images are read."""
    return {"fit": arguments.FIT.value, "length": arguments.LENGTH.value}


def writing() -> dict[str, Any]:
    """The options of every mode that writes texts."""
    return {"order": arguments.ORDER.value, **text_flags.text_choices(), **reading(), **sampling()}


def drawing() -> dict[str, Any]:
    """The options of every mode that draws images."""
    levels = arguments.SIGMAS.value
    return {
        "sampler": arguments.SAMPLER.value,
        "sigmas": None if levels is None else list(levels),
        "sigma_shift": arguments.SIGMA_SHIFT.value,
        **sampling(),
    }


def prompted() -> dict[str, Any]:
    """The options of every mode that draws images from prompts."""
    return {
        "guidance_scale": arguments.GUIDANCE.value,
        "guidance_rule": arguments.GUIDANCE_RULE.value,
        "guidance_interval": arguments.GUIDANCE_INTERVAL.value,
        "zero_init_steps": arguments.ZERO_INIT_STEPS.value,
        "negative_prompt": arguments.NEGATIVE.value,
        "images_per_prompt": arguments.IMAGES_PER_PROMPT.value,
        **drawing(),
    }


def evaluating() -> dict[str, Any]:
    """The options of an evaluation."""
    given = writing()
    settings = {"steps": given.pop("steps"), "length": given.pop("length")}
    settings |= {
        "suffix": arguments.SUFFIX.value,
        "question": one_question(),
        "choose_by": arguments.CHOOSE_BY.value,
        "words": arguments.WORDS.value,
    }
    whole = {name: given.pop(name) for name in ("dtype", "t5_bits", "seed", "as_json", "overwrite")}
    return {
        "settings": settings,
        "sampling": given,
        "split": arguments.SPLIT.value,
        "limit": arguments.LIMIT.value,
        "sampling_batch": arguments.SAMPLING_BATCH.value,
        **whole,
    }


def drawing_benchmarks() -> dict[str, Any]:
    """The options of an evaluation that draws images."""
    return {"limit": arguments.LIMIT.value, "sampling_batch": arguments.SAMPLING_BATCH.value, **prompted()}


def scoring_images() -> dict[str, Any]:
    """The options of a score of images."""
    return {
        "images": arguments.IMAGES.value,
        "weights": arguments.WEIGHTS.value,
        "resize": arguments.RESIZE.value,
        "limit": arguments.LIMIT.value,
        "as_json": arguments.FORMAT.value == "json",
        "overwrite": arguments.OVERWRITE.value,
    }


def one_question() -> str | None:
    """The only ``--question``. Raises ``UserError`` where there are several."""
    questions = arguments.QUESTION.value
    if len(questions) > 1:
        raise UserError(f"--question is given {len(questions)} times; an evaluation asks one about every image")
    return questions[0] if questions else None
