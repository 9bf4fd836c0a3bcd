"""Open questions of MMMU, whose answer is a number or a few words.

Source: ``parse_open_response`` and ``eval_open`` of MMMU at 51ce7f3 as lmms-eval 0.7.3 has them. The parts of a
generated text that follow a key such as "answer " or "is ", and all numbers in these parts, are its candidates.
A candidate number is right if it equals an answer, rounded to two digits; a candidate text if an answer is in it.
"""

import re
from collections.abc import Sequence

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.metrics.metric import check_text

KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
LAST_KEY = "="  # in the last sentence too
LONE_SIGNS = (":", ",", ".", "!", "?", ";", "'")
DIGITS = 2  # that numbers are rounded to
_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)

Candidate = str | float


def is_open_answer_right(prediction: str, answers: Sequence[str]) -> bool:
    """Whether a generated text has one of the answers.

    Args:
        prediction: the generated text.
        answers: of the question, at least one.

    Raises:
        UserError: no answer, or one that is no text.
    """
    if isinstance(answers, str) or not answers:
        raise UserError(f"the answers of an open question are {quoted(answers)}; give a list of texts")
    for index, answer in enumerate(answers):
        check_text(answer, f"answer {index}")
    right = [form for answer in answers for form in _forms(answer)]
    texts = [form for form in right if isinstance(form, str)]
    for candidate in open_candidates(prediction):
        if isinstance(candidate, str) and any(text in candidate for text in texts):
            return True
        if isinstance(candidate, float) and candidate in right:
            return True
    return False


def open_candidates(prediction: str) -> list[Candidate]:
    """What a generated text may mean as its answer: texts in small letters, and numbers."""
    check_text(prediction, "the prediction")
    parts = _key_parts(prediction)
    parts += [number for part in parts for pattern in _NUMBERS for number in pattern.findall(part)]
    return list(dict.fromkeys(form for part in parts for form in _forms(part)))


def _key_parts(prediction: str) -> list[str]:
    text = prediction.strip().strip(".").lower()
    sentences = _SENTENCE_END.split(text)
    found = []
    for number, sentence in enumerate(sentences, start=1):
        keys = KEYS + ((LAST_KEY,) if number == len(sentences) else ())
        rests = [sentence.split(key)[-1].strip() for key in keys if key in sentence]
        shortest = ""
        for rest in rests:  # an empty rest gives way to whatever follows it
            if not shortest or len(rest) < len(shortest):
                shortest = rest
        if shortest and shortest not in LONE_SIGNS:
            found.append(shortest)
    return found or [text]


def _forms(text: str) -> list[Candidate]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), DIGITS)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
