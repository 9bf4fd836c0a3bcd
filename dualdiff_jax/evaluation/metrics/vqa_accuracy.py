"""Soft accuracy of short answers: VQAv2, OKVQA, TextVQA and VizWiz.

An answer that m of the n annotators gave scores the mean over annotators of min(1, matches among the others / 3):

    accuracy = (m min(1, (m - 1) / 3) + (n - m) min(1, m / 3)) / n          (1)

Source of the rule: ``vqaEval.py`` of GT-Vision-Lab/VQA at a013f00; of the forms compared: ``vqa_answers``. VQAv2 brings
answers into their normal form only where the annotators' ``stripped`` answers differ; the others always do.

The others are found by index. The official script finds them by inequality of whole annotations, which is the same as
long as each annotation has its own ``answer_id``; without ids it gives 0 to what all annotators say. A lone annotator
has no others, so by (1) nothing scores.
"""

from collections.abc import Callable, Sequence

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.metrics.metric import MeanMetric, check_text
from dualdiff_jax.evaluation.metrics.vqa_answers import evalai_form, stripped, vizwiz_form, vqav2_form

Forms = Callable[[list[str]], list[str]]  # prediction and annotators' answers -> the forms that are compared


def _where_annotators_differ(answers: list[str]) -> list[str]:
    answers = [stripped(answer) for answer in answers]
    return [vqav2_form(answer) for answer in answers] if len(set(answers[1:])) > 1 else answers


BENCHMARKS: dict[str, Forms] = {
    "vqav2": _where_annotators_differ,
    "okvqa": lambda answers: [evalai_form(answer) for answer in answers],
    "textvqa": lambda answers: [evalai_form(answer) for answer in answers],
    "vizwiz": lambda answers: [vizwiz_form(answer) for answer in answers],
}


def vqa_accuracy(benchmark: str, prediction: str, answers: Sequence[str]) -> float:
    """The accuracy of one answer, in [0, 1].

    Args:
        benchmark: a name of ``BENCHMARKS``.
        prediction: the generated answer.
        answers: one answer an annotator, at least one.

    Raises:
        UserError: an unknown benchmark, no annotator, or an answer that is no text.
    """
    check_benchmark(benchmark)
    if isinstance(answers, str) or not isinstance(answers, Sequence) or not answers:
        raise UserError(f"the annotators' answers are {quoted(answers)}; give a list with at least one answer")
    check_text(prediction, "the prediction")
    for index, answer in enumerate(answers):
        check_text(answer, f"the answer of annotator {index}")
    said, *others = BENCHMARKS[benchmark]([prediction, *answers])
    count, matches = len(others), others.count(said)
    return (matches * min(1.0, (matches - 1) / 3) + (count - matches) * min(1.0, matches / 3)) / count


def check_benchmark(benchmark: str) -> None:
    """Raises UserError unless ``benchmark`` has a rule here."""
    if benchmark not in BENCHMARKS:
        raise UserError(f"VQA accuracy has no benchmark {quoted(benchmark)}; choose one of {', '.join(BENCHMARKS)}")


class VqaAccuracy(MeanMetric):
    """The mean of ``vqa_accuracy``; ``parts`` by group, such as VQAv2's answer types.

    Args:
        benchmark: a name of ``BENCHMARKS``.

    Raises:
        UserError: an unknown benchmark.
    """

    def __init__(self, benchmark: str):
        super().__init__()
        check_benchmark(benchmark)
        self._benchmark = benchmark

    def update(self, prediction: str, answers: Sequence[str], group: str | None = None) -> float:
        """Adds a record and returns its accuracy; arguments and faults as of ``vqa_accuracy``."""
        return self._record(vqa_accuracy(self._benchmark, prediction, answers), group)
