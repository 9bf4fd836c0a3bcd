"""``--mode=joint``: images and their texts, drawn together."""

from typing import Any

from dualdiff_jax.cli import arguments, options, text_flags
from dualdiff_jax.cli.loading import call_model
from dualdiff_jax.cli.results import image_names, results_folder, write_images
from dualdiff_jax.cli.sample import drawn_rows
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline.inputs import Seed, check_settings, whole_number
from dualdiff_jax.pipeline.joint_calls import MOST_PAIRS, Pair
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar


def draw_pairs(model: str, output: str) -> None:
    """Draws the pairs of the flags. Arguments as in ``joint``."""
    prompts = arguments.PROMPT.value
    if len(prompts) > 1:
        raise UserError(f"--prompt is given {len(prompts)} times; all texts begin with the same one")
    joint(
        model,
        output,
        prompts[0] if prompts else "",
        arguments.COUNT.value or 1,
        length=arguments.LENGTH.value,
        guidance_scale=arguments.GUIDANCE.value,
        sigma_shift=arguments.SIGMA_SHIFT.value,
        temperature=text_flags.TEMPERATURE.value,
        **options.sampling(),
    )


def joint(
    model: str,
    output: str,
    prompt: str,
    count: int,
    *,
    dtype: str | None,
    t5_bits: int | None = None,
    seed: Seed,
    as_json: bool,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Writes images, and prints their files and texts.

    Args:
        model: a model folder, or a diffusers folder.
        output: folder for the images, ``NNNN.png``, and their list, ``images.json``.
        prompt: the beginning of every text.
        count: of pairs.
        dtype: as in ``sample.generate``, like ``t5_bits``, ``seed``, ``as_json`` and ``overwrite``.
        settings: those of ``DualDiffusionPipeline.joint``.
    """
    check_settings(**settings)
    count = whole_number("count", count, 1, most=MOST_PAIRS)
    rows = [{"seed": row["seed"], "index": row["index"]} for row in drawn_rows(seed, count)]

    def call(pipeline: DualDiffusionPipeline) -> list[Pair]:
        pipeline.tokenizer.check_words(prompt)
        return pipeline.joint(count, prompt=prompt, seed=seed, progress=bar("drawing"), **settings)

    with results_folder(output, image_names(rows), overwrite) as folder:
        pairs = call_model(model, dtype, t5_bits, call)
        rows = [{"text": pair.text, **row} for pair, row in zip(pairs, rows, strict=True)]
        write_images(folder, [pair.image for pair in pairs], rows, as_json, "{image}\t{text}")
