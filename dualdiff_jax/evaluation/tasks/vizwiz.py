"""VizWiz: questions of blind people about their photos, many of which cannot be answered."""

from dualdiff_jax.evaluation.metrics.vqa_accuracy import VqaAccuracy
from dualdiff_jax.evaluation.metrics.vqa_answers import vizwiz_form
from dualdiff_jax.evaluation.tasks import short_answers
from dualdiff_jax.evaluation.tasks.task import SINGLE_WORD, UNANSWERABLE, Task, TaskSettings

TASK = Task(
    name="vizwiz",
    title="VizWiz",
    splits=("val", "train", "test"),
    layout="Annotations/val.json and val/ (test: Annotations/test.json, test/)",
    open=short_answers.official("vizwiz"),
    metric=lambda settings: VqaAccuracy("vizwiz"),
    update=short_answers.update,
    normalised=lambda answer, question: vizwiz_form(answer),
    settings=TaskSettings(suffix=f"{SINGLE_WORD} {UNANSWERABLE}"),
    submission=short_answers.id_and_answer("image"),
)
