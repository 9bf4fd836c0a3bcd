"""``--mode=evaluate``: which command a task belongs to, and which of the mode's flags it uses.

Tasks are of three kinds: questions about images, prompts to draw, and scores of images, which need no model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from dualdiff_jax.cli import arguments, evaluate_images
from dualdiff_jax.cli.evaluate import evaluate as evaluate_questions
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.generation.registry import IMAGE_SCORES, IMAGE_TASKS
from dualdiff_jax.evaluation.tasks.registry import TASKS

SHARED = {"task", "output", "format", "overwrite", "coordinator", "num_processes", "process_id"} | {
    "initialization_timeout"
}
OF_A_MODEL = {"model", "data", "limit", "sampling_batch", "seed", "height", "width", "dtype", "t5_bits", "steps"}
OF_PROMPTS = {
    *("guidance_scale", "sampler", "sigmas", "sigma_shift", "guidance_rule", "guidance_interval", "zero_init_steps"),
    *("negative_prompt", "images_per_prompt"),
}
OF_SCORES = {"images", "weights", "resize"}
USED: Mapping[str, set[str]] = {  # kind of task -> flags
    "drawing": SHARED | OF_A_MODEL | OF_PROMPTS,
    "fid": SHARED | OF_SCORES | {"data", "limit"},
    "clip-score": SHARED | {"images", "weights"},
}


def evaluate(
    tasks: Sequence[str],
    model: str | None,
    data: str | None,
    output: str | None,
    *,
    questions: Mapping[str, Any],
    drawing: Mapping[str, Any],
    scoring: Mapping[str, Any],
) -> None:
    """Runs the tasks, all of one kind.

    Args:
        tasks: their names.
        model, data, output: values of the flags.
        questions: options of ``evaluate.evaluate``.
        drawing: options of ``evaluate_images.draw_tasks``.
        scoring: options of ``evaluate_images.fid``, and of ``clip_score``.

    Raises:
        UserError: a flag is missing or is one of another kind of task, or tasks cannot go together.
    """
    for name in sorted({name for name in tasks if list(tasks).count(name) > 1}):
        raise UserError(f"--task={name} is given more than once; give each task once")
    kinds = list(dict.fromkeys(map(_kind, tasks))) or ["questions"]
    if len(kinds) > 1 or (kinds[0] in IMAGE_SCORES and len(tasks) > 1):
        raise UserError(
            f"--task={', '.join(tasks)}: tasks of questions, tasks of prompts and each score of images have runs of "
            "their own; give them one after the other"
        )
    kind = kinds[0]
    _check_flags(tasks, kind)
    if kind == "questions":
        model, data, output = _needed(model=model), _needed(data=data), _needed(output=output)
        if not tasks:
            raise UserError(f"there is no task; give --task={'|'.join((*TASKS, *IMAGE_TASKS, *IMAGE_SCORES))}")
        evaluate_questions(model, tasks, data, output, **questions)
    elif kind == "drawing":
        evaluate_images.draw_tasks(_needed(model=model), tasks, _needed(data=data), _needed(output=output), **drawing)
    else:
        given = dict(scoring)
        images, weights = _needed(images=given.pop("images")), _needed(weights=given.pop("weights"))
        if kind == "fid":
            evaluate_images.fid(images, _needed(data=data), weights, _needed(output=output), **given)
        else:
            given = {name: given[name] for name in ("as_json", "overwrite")}
            evaluate_images.clip_score(images, weights, _needed(output=output), **given)


def _kind(task: str) -> str:
    if task in IMAGE_SCORES:
        return task
    return "drawing" if task in IMAGE_TASKS else "questions"


def _check_flags(tasks: Sequence[str], kind: str) -> None:
    """Raises ``UserError`` that names every flag on the command line which this kind of task does not use."""
    of_mode = {name for name, modes in arguments.USED_BY.items() if "evaluate" in modes}
    others = OF_PROMPTS - {"guidance_scale"} | OF_SCORES
    used = USED.get(kind, of_mode - others)
    unused = [f"--{name}" for name in arguments.USED_BY if name in of_mode - used and flags.FLAGS[name].present]
    if unused:
        raise UserError(
            f"--task={'|'.join(tasks) or 'TASK'} does not use {', '.join(unused)}; leave "
            f"{'it' if len(unused) == 1 else 'them'} out"
        )


def _needed(**given: str | None) -> str:
    ((name, value),) = given.items()
    if not value:
        raise UserError(f"--mode=evaluate needs --{name}=...")
    return value
