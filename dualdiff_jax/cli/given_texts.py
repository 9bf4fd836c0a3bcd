"""``--mode=infill`` and ``score``: texts about images that the caller has, in part or whole.

Each command raises ``UserError`` for a fault of its arguments, before the model is loaded where it can.
"""

from collections.abc import Sequence
from typing import Any

from dualdiff_jax.cli.loading import call_model
from dualdiff_jax.cli.results import report_rows, results_file
from dualdiff_jax.cli.sample import check_files, check_questions, paired, seeds_of
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline.blanks import parts_of
from dualdiff_jax.pipeline.infill_calls import Infilling
from dualdiff_jax.pipeline.inputs import Seed, check_seed, check_settings
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.pipeline.score_calls import Scores
from dualdiff_jax.progress import bar


def infill(
    model: str,
    images: Sequence[str],
    texts: Sequence[str],
    output: str | None,
    *,
    dtype: str | None,
    t5_bits: int | None = None,
    seed: Seed,
    as_json: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Prints each text with its blanks filled.

    Args:
        model: as in ``sample.generate``, like ``dtype``, ``t5_bits``, ``seed``, ``as_json`` and ``overwrite``.
        images: files; a single one goes with every text.
        texts: with blanks; a single one goes with every image.
        output: folder for ``infills.json``; None writes none.
        options: those of ``DualDiffusionPipeline.infill``.
    """
    _check_given(images, texts, "a photo of a _ on a _")
    images, texts = paired(images, texts, "texts")
    written = [" ".join(parts_of("--text", text)) for text in texts]
    seeds = seeds_of(seed, len(images))
    check_settings(**options)
    check_files(images)

    def call(pipeline: DualDiffusionPipeline) -> list[Infilling]:
        pipeline.tokenizer.check_words(*written)
        return pipeline.infill(texts, images, with_fills=True, seed=seed, progress=bar("filling"), **options)

    with results_file(output, "infills.json", overwrite) as file:
        found = call_model(model, dtype, t5_bits, call)
        rows = [
            {"image": image, "text": each.text, "fills": each.fills, "seed": its_seed}
            for image, each, its_seed in zip(images, found, seeds, strict=True)
        ]
        report_rows(rows, file, as_json, "{image}\t{text}")


def score(
    model: str,
    images: Sequence[str],
    texts: Sequence[str],
    questions: Sequence[str],
    output: str | None,
    *,
    dtype: str | None,
    t5_bits: int | None = None,
    seed: Seed,
    as_json: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Prints the score of each text given each image, the best text of an image first.

    Args:
        model: as in ``sample.generate``, like ``dtype``, ``t5_bits``, ``seed``, ``as_json`` and ``overwrite``.
        images: files.
        texts: each is scored with every image.
        questions: none; or one, or one for each image, which the texts answer.
        output: folder for ``scores.json``; None writes none.
        options: those of ``DualDiffusionPipeline.score``.
    """
    _check_given(images, texts, "a photo of a dog")
    if len(questions) not in (0, 1, len(images)):
        raise UserError(f"{len(questions)} questions for {len(images)} images; give one, or one for each image")
    check_questions(questions)
    one_seed = check_seed("seed", seed)
    check_settings(**options)
    check_files(images)

    def call(pipeline: DualDiffusionPipeline) -> Scores:
        pipeline.tokenizer.check_words(*texts, *questions)
        given = {"questions": questions} if questions else {}
        return pipeline.score(images, texts, seed=one_seed, progress=bar("scoring"), **given, **options)

    with results_file(output, "scores.json", overwrite) as file:
        found = call_model(model, dtype, t5_bits, call)
        rows = []
        for i, image in enumerate(images):
            for j in found.nats[i].argsort(kind="stable"):
                numbers = {name: values[i, j].item() for name, values in found._asdict().items()}
                rows.append({"image": image, "text": texts[j], **numbers, "seed": one_seed})
        line = "{image}\t{nats:.3f} +- {standard_error:.3f}\t+{behind:.3f} +- {behind_error:.3f}\t{text}"
        report_rows(rows, file, as_json, line)


def _check_given(images: Sequence[str], texts: Sequence[str], example: str) -> None:
    if not images or not texts:
        raise UserError(f'an image or a text is missing; give --image=FILE and --text="{example}"')
    if not all(text.strip() for text in texts):
        raise UserError("a text is empty; write something in --text")
