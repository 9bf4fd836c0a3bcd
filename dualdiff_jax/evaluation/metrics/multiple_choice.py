"""Accuracy of multiple choice: MMMU and MMBench.

Source of the parse: ``parse_multi_choice_response`` of MMMU at 51ce7f3 as lmms-eval 0.7.3 has it. It looks for "(B)",
else for "B" before a space, else for "B.", else, in more than five words, for an option's text; of several finds the
last counts. Where nothing is found the original picks an option at random; here the answer counts as wrong, so a score
lies lower by the luck of guesses and never varies.

Source of MMBench's inference: ``can_infer`` of lmms-eval 0.7.3. It looks for one letter as a word of its own, which an
"A" of more than three words is not, else for one letter with signs, else for the one option whose text is there. The
original asks GPT where nothing is found; here the answer counts as wrong.

MMBench's circular evaluation (OpenCompass) asks a question once for each rotation of its options and counts it as right
if all rotations are: records with the same ``question`` are one.
"""

import math
import string
from collections.abc import Callable, Mapping, Sequence

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.metrics.metric import (
    Metric,
    MetricResult,
    check_records,
    check_text,
    mean,
    standard_error,
)
from dualdiff_jax.evaluation.metrics.open_answers import is_open_answer_right

LETTERS = string.ascii_uppercase
TRIMMED = ",.!?;:'"  # each in turn, once, off both ends
MMBENCH_LETTERS = LETTERS[:5]
MMBENCH_SIGNS = (  # before and after a letter, in the order in which they are looked for
    ("", ""),
    *(("", sign) for sign in (".", ",", ":", ")", ").")),
    *(("(", sign) for sign in (")", ").")),
    *((":", sign) for sign in ("", ",", ".", ")", ").")),
)


def parse_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that ``text`` chooses, or None if it chooses none.

    Args:
        text: the generated answer.
        options: the options' texts, A first.

    Raises:
        UserError: no options, more than 26, or something that is no text.
    """
    check_text(text, "the prediction")
    letters = _letters(options)
    for sign in TRIMMED:
        text = text.strip(sign)
    text = f" {text} "
    # How a find looks, and the text whose last place decides between several.
    for found, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        finds = [letter for letter in letters if found.format(letter) in text]
        if finds:
            return max(finds, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    places = {letter: lower.rfind(option.lower()) for letter, option in zip(letters, options, strict=True)}
    best = max(letters, key=places.__getitem__)
    return best if places[best] >= 0 else None


def infer_letter(text: str, options: Sequence[str]) -> str | None:
    """``parse_letter`` by MMBench's rules, which also find a letter of A to E that no option has."""
    check_text(text, "the prediction")
    letters = _letters(options)
    words = text.split()
    for before, after in MMBENCH_SIGNS:
        found = [letter for letter in MMBENCH_LETTERS if f"{before}{letter}{after}" in words]
        is_quantifier = not before + after and "A" in words and len(words) > 3
        if len(found) == 1 and not is_quantifier:
            return found[0]
    lower = text.lower()
    named = [letter for letter, option in zip(letters, options, strict=True) if option.lower() in lower]
    return named[0] if len(named) == 1 else None


PARSERS: Mapping[str, Callable[[str, Sequence[str]], str | None]] = {"mmmu": parse_letter, "mmbench": infer_letter}


def best_letter(scores: Sequence[float]) -> str:
    """The letter of the highest score, such as an option's log-probability; the first of equal ones.

    Raises:
        UserError: no scores, more than 26, or one that is not a number.
    """
    if not 0 < len(scores) <= len(LETTERS) or any(math.isnan(score) for score in scores):
        raise UserError(f"the options' scores are {quoted(list(scores))}; give 1 to {len(LETTERS)} numbers")
    return LETTERS[max(range(len(scores)), key=lambda index: scores[index])]


def _letters(options: Sequence[str]) -> str:
    if isinstance(options, str) or not 0 < len(options) <= len(LETTERS):
        raise UserError(f"the options are {quoted(options)}; give a list of 1 to {len(LETTERS)} texts")
    for index, option in enumerate(options):
        check_text(option, f"option {LETTERS[index]}")
    return LETTERS[: len(options)]


class MultipleChoice(Metric):
    """The share of questions answered right; ``parts`` by group, such as subjects.

    Args:
        benchmark: a name of ``PARSERS``, by whose rules a letter is found in generated text.

    Raises:
        UserError: an unknown benchmark.
    """

    def __init__(self, benchmark: str = "mmmu"):
        if benchmark not in PARSERS:
            raise UserError(f"multiple choice has no benchmark {quoted(benchmark)}; choose one of {', '.join(PARSERS)}")
        self._parse = PARSERS[benchmark]
        self._scores: dict[tuple[str | None, object], list[float]] = {}
        self._unnamed = 0

    def update(
        self,
        prediction: str,
        answer: str,
        options: Sequence[str],
        group: str | None = None,
        question: str | int | None = None,
    ) -> float:
        """Adds a generated answer and returns 1 if it chooses the right option, else 0.

        Args:
            prediction: the generated answer.
            answer: the right option's letter.
            options: the options' texts, A first.
            group: a name in ``parts``.
            question: equal for records that count as one, right only if all are; None: the record is one of its own.

        Raises:
            UserError: options or texts that cannot be, or a letter without an option.
        """
        letter = self._parse(prediction, options)
        if answer not in list(LETTERS[: len(options)]):
            raise UserError(
                f"the right answer is {quoted(answer)}; give a letter from A to {LETTERS[len(options) - 1]}"
            )
        return self._add(float(letter == answer), group, question)

    def update_open(self, prediction: str, answers: Sequence[str], group: str | None = None) -> float:
        """Adds the answer to an open question of MMMU (``open_answers``) and returns 1 if it is right, else 0."""
        return self._add(float(is_open_answer_right(prediction, answers)), group, None)

    def _add(self, score: float, group: str | None, question: object) -> float:
        if question is None:
            self._scores[group, (self._unnamed,)] = [score]
            self._unnamed += 1
        else:
            self._scores.setdefault((group, question), []).append(score)
        return score

    def result(self) -> MetricResult:
        check_records(len(self._scores), self)
        scores = {key: min(found) for key, found in self._scores.items()}
        groups = sorted({group for group, _ in scores if group is not None})
        parts = {name: mean([score for (group, _), score in scores.items() if group == name]) for name in groups}
        values = list(scores.values())
        return MetricResult(mean(values), standard_error(values), len(values), parts)
