"""Scores of benchmarks while a model trains: the same questions every time, asked with the averages."""

from collections.abc import Iterator

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import RunConfig, TaskConfig
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.asking import Asker, Sampling
from dualdiff_jax.evaluation.runner import Evaluation, OpenedTask
from dualdiff_jax.evaluation.scoring import Scorer
from dualdiff_jax.evaluation.tasks.registry import task_of
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline


class TaskScores:
    """A training hook over ``config.validation.tasks``. It samples on every host.

    Args:
        config: the run's. Lengths and steps are the model's own, not the paper's: a model that trains on short texts
            is asked in texts as short.
        tokenizer: the run's.

    Raises:
        UserError: there is no such task, its files cannot be used, or its answers are not published.
    """

    def __init__(self, config: RunConfig, tokenizer: Tokenizer):
        self._model, self._tokenizer = config.model, tokenizer
        self._tasks = [opened_task(task, config) for task in config.validation.tasks]

    def __call__(self, step: int, weights: Weights) -> dict[str, float]:
        """Figures under ``tasks/NAME``, ``tasks/NAME/standard_error`` and ``tasks/NAME/PART``, in the task's unit."""
        pipeline = DualDiffusionPipeline(self._model, weights, self._tokenizer)
        return dict(figure for opened in self._tasks for figure in _figures(opened, pipeline))


def opened_task(config: TaskConfig, run: RunConfig) -> OpenedTask:
    """The questions that a run will ask. Arguments and exceptions: ``TaskScores``."""
    task, model = task_of(config.name), run.model.sampling
    lengths = {"length": model.answer_length, "steps": model.answer_steps}
    if task.asks_for_captions:
        lengths = {"length": model.caption_length, "steps": model.caption_steps}
    sampling = Sampling(seed=run.seed)
    settings, split = task.with_settings(lengths), config.split or None
    try:
        return Evaluation(task, settings, sampling, config.root, split, config.limit).open(is_scored=True)
    except UserError as error:
        raise UserError(f"validation.tasks: {error}") from error


def _figures(opened: OpenedTask, pipeline: DualDiffusionPipeline) -> Iterator[tuple[str, float]]:
    evaluation, questions, chosen, _, _ = opened
    scorer = Scorer(evaluation.task, evaluation.settings, is_answered=True)
    asker = Asker(pipeline, evaluation.task.ask, evaluation.settings, evaluation.sampling)
    for asked in asker.ask(questions, chosen.indexes):
        for each in asked:
            scorer.prediction(each)
    found, name = scorer.figures(), f"tasks/{evaluation.task.name}"
    yield name, found["score"]
    if found["standard_error"] is not None:
        yield f"{name}/standard_error", found["standard_error"]
    for part, value in found["parts"].items():
        yield f"{name}/{part}", value
