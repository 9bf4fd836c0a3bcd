"""TextVQA: questions about text in the image; the model gets no tokens of an OCR system."""

from dualdiff_jax.evaluation.metrics.vqa_accuracy import VqaAccuracy
from dualdiff_jax.evaluation.metrics.vqa_answers import evalai_form
from dualdiff_jax.evaluation.tasks import short_answers
from dualdiff_jax.evaluation.tasks.task import Task

TASK = Task(
    name="textvqa",
    title="TextVQA",
    splits=("val", "train", "test"),
    layout="TextVQA_0.5.1_val.json and train_images/ (test: TextVQA_0.5.1_test.json, test_images/)",
    open=short_answers.official("textvqa"),
    metric=lambda settings: VqaAccuracy("textvqa"),
    update=short_answers.update,
    normalised=lambda answer, question: evalai_form(answer),
    submission=short_answers.id_and_answer("question_id", is_number=True),
)
