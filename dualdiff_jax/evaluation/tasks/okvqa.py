"""OKVQA: questions that need knowledge beyond the image, ten answers each."""

from dualdiff_jax.evaluation.metrics.vqa_accuracy import VqaAccuracy
from dualdiff_jax.evaluation.metrics.vqa_answers import evalai_form
from dualdiff_jax.evaluation.tasks import short_answers
from dualdiff_jax.evaluation.tasks.task import Task

TASK = Task(
    name="okvqa",
    title="OKVQA",
    splits=("val", "train"),
    layout="OpenEnded_mscoco_val2014_questions.json, mscoco_val2014_annotations.json and val2014/",
    open=short_answers.official("okvqa"),
    metric=lambda settings: VqaAccuracy("okvqa"),
    update=short_answers.update,
    normalised=lambda answer, question: evalai_form(answer),
)
