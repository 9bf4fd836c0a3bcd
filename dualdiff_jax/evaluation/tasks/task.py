"""``Task``: settings, source and metric of one benchmark."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from dualdiff_jax.config.model import MOST_STEPS
from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.metrics.metric import Metric

ChooseBy = Literal["generation", "score"]
Words = Literal["ptb", "plain"]

SINGLE_WORD = "Answer the question using a single word or phrase."
UNANSWERABLE = "Reply unanswerable if information is not present in the image."
LETTER = "Answer with the option's letter from the given choices directly."


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """How the questions of a task are asked.

    Attributes:
        suffix: follows every question, after a space; "" is none.
        question: asked about every image of a task without questions; "" asks for a bare caption.
        steps: passes of the sampler.
        length: tokens of question and answer together.
        choose_by: of a multiple choice: "generation" reads a letter from generated text, "score" takes the letter
            with the highest score of ``DualDiffusionPipeline.score``.
        words: of captions: "ptb" is the official tokenizer, which needs Java; "plain" are words and numbers in small
            letters, whose scores are no one else's.
    """

    suffix: str = SINGLE_WORD
    question: str = ""
    steps: int = 32
    length: int = 128
    choose_by: ChooseBy = "generation"
    words: Words = "ptb"

    def __post_init__(self):
        for name, choices in (("choose_by", get_args(ChooseBy)), ("words", get_args(Words))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {quoted(getattr(self, name))}; choose one of {', '.join(choices)}")


class Reported(NamedTuple):
    """A figure that others printed, in the task's unit."""

    what: str  # the model, and what differs
    score: float
    source: str


class Answer(NamedTuple):
    """What was answered to one question."""

    question_id: str
    text: str  # as it was generated
    normalised: str


# (answers, root) -> (the file's name after the task's, its text)
WriteSubmission = Callable[[Sequence[Answer], str], tuple[str, str]]


SHARED = ("steps", "length")  # settings that every task uses


Ask = Callable[[Question, TaskSettings], str]  # the text that the model reads


def suffixed(text: str, settings: TaskSettings) -> str:
    """A text with the suffix of the settings."""
    return f"{text} {settings.suffix.strip()}".strip()


def with_suffix(question: Question, settings: TaskSettings) -> str:
    """The question with the suffix of the settings."""
    return suffixed(question.text, settings)


def truth_fault(question: Question) -> str:
    """What keeps an answer to the question from being scored: "" is nothing."""
    return "" if question.truths else "has no answer"


@dataclasses.dataclass(frozen=True)
class Task:
    """One benchmark.

    Attributes:
        name: in flags and files.
        title: in reports.
        splits: the names that it knows, the default first.
        layout: the files that it reads, for messages.
        open: (root, split, cache) -> the questions; raises ``UserError``.
        metric: makes the metric that settings ask for.
        update: (metric, question, answer) -> the record's own score, None where it has none.
        normalised: (answer, question) -> the form that is compared with the truth.
        settings: the paper's, or else those that the published model was trained for.
        ask: (question, settings) -> the text that the model reads.
        uses: the settings besides steps and length that change something.
        fault: (question of an answered split) -> why no answer to it can be scored, such as "has no answer"; "" if one
            can.
        asks_for_captions: whether there are no questions, so that texts are as long as captions.
        unit: of ``score``, as papers print it.
        scale: from the metric's own units to ``unit``.
        reported: figures of the paper, as others quote them.
        submission: makes the file for the benchmark's server, if there is a held-back split.
        check_submission: (root) -> None; raises ``UserError`` where ``submission`` would lack a file.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    layout: str
    open: Callable[[str, str, IndexCache], Questions]
    metric: Callable[[TaskSettings], Metric]
    update: Callable[[Any, Question, str], float | None]
    normalised: Callable[[str, Question], str]
    settings: TaskSettings = TaskSettings()
    ask: Ask = with_suffix
    uses: tuple[str, ...] = ("suffix",)
    fault: Callable[[Question], str] = truth_fault
    asks_for_captions: bool = False
    unit: str = "%"
    scale: float = 100.0
    reported: tuple[Reported, ...] = ()
    submission: WriteSubmission | None = None
    check_submission: Callable[[str], object] | None = None

    def with_settings(self, changes: Mapping[str, Any]) -> TaskSettings:
        """The settings, changed where ``changes`` has a value other than None.

        Raises:
            UserError: a value is unusable.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        for name, least, most in (("steps", 1, MOST_STEPS), ("length", 2, 1 << 16)):
            if not least <= given.get(name, least) <= most:
                raise UserError(f"{name} is {given[name]}; give a whole number from {least} to {most}")
        return dataclasses.replace(self.settings, **given)

    def used(self, changes: Mapping[str, Any]) -> Collection[str]:
        """The names of the settings among ``changes`` that have a use; captions have a suffix only with a question."""
        found = {name for name, value in changes.items() if value is not None} & {*SHARED, *self.uses}
        is_bare = self.asks_for_captions and not (changes.get("question") or self.settings.question)
        return found - {"suffix"} if is_bare else found

    def questions(self, root: str, split: str | None, cache: IndexCache) -> Questions:
        """The questions of a split, None for the default.

        Raises:
            UserError: there is no such split, or a file is missing or damaged; with the layout.
        """
        chosen = split or self.splits[0]
        if chosen not in self.splits:
            raise UserError(f"{self.name} has no split {quoted(chosen)}; choose one of {', '.join(self.splits)}")
        try:
            return self.open(root, chosen, cache)
        except UserError as error:
            raise UserError(f"task {self.name}, split {chosen}: {error}; expected {self.layout} in {root}") from error
