"""The demo's measures: the scores, their bounds, and the check of each example.

A text is right if all of it is right. A drawing is right if a classifier, fitted on the real training digits and
sharing nothing with the model, reads the digits that its caption names.
"""

import dataclasses

import numpy as np
from sklearn.svm import SVC

from demo.digits import CAPTIONS, SIDE, WORDS, Digits, pair_caption
from demo.samples import Drawings, Labels, Samples

GAMMA = 0.001  # of the classifier's kernel, for pixels of 0 to 16


@dataclasses.dataclass(frozen=True)
class Measure:
    """A score: its title, what it counts, and its lower bound (None: no bound)."""

    title: str
    meaning: str
    bound: float | None = None


MEASURES = {
    "caption_exact_match": Measure(
        "Captions of digits", "held-out digits whose whole caption is right, most confident token first", 0.95
    ),
    "caption_exact_match_ancestral": Measure(
        "Captions of digits, random order",
        "the same, with positions and tokens drawn at random, in 64 steps; four draws for each digit",
        0.93,
    ),
    "caption_exact_match_unanchored": Measure(
        "Captions of digits, random order, no given end", "the same, where the last token is not given as the end"
    ),
    "caption_exact_match_remasked": Measure(
        "Captions of digits, random order, corrected",
        "the same with a given end, and with tokens masked and drawn again (remask 0.05)",
        0.93,
    ),
    "answer_accuracy": Measure(
        "Answers", "held-out digits with the right answer to “which digit is this?”, most confident token first", 0.95
    ),
    "answer_accuracy_ancestral": Measure(
        "Answers, random order", "the same, with positions and tokens drawn at random"
    ),
    "infill_accuracy": Measure(
        "Blanks", "captions of held-out digits in which the word, a blank, is filled right", 0.95
    ),
    "ranking_accuracy": Measure(
        "Scores", "held-out digits whose right caption scores best among those of all ten digits", 0.97
    ),
    "generation_accuracy": Measure("Drawn digits", "drawings that an independent classifier reads as captioned", 0.97),
    "classifier_accuracy": Measure("The classifier itself", "real held-out digits that it reads correctly", 0.98),
    "composed_generation_accuracy": Measure(
        "Drawn pairs", "drawings with both halves read as captioned, of pairs that occur in training", 0.97
    ),
    "composed_generation_accuracy_unseen": Measure(
        "Drawn pairs, never seen", "the same for pairs that never occur in training", 0.95
    ),
    "composed_caption_accuracy": Measure(
        "Captions of pairs", "pairs of held-out digits whose whole caption is right, most confident token first", 0.93
    ),
    "composed_caption_accuracy_unseen": Measure(
        "Captions of pairs, never seen", "the same for pairs that never occur in training", 0.93
    ),
}


class DigitClassifier:
    """A support vector machine on the pixels of real digits."""

    def __init__(self, digits: Digits):
        self._svc = SVC(gamma=GAMMA).fit(_features(digits.images), digits.labels)

    def __call__(self, images: np.ndarray) -> list[Labels]:
        """(n, 8, 8 k) uint8 -> the digit in each of the k parts of each image, from the left."""
        parts = np.split(images, images.shape[2] // SIDE, axis=2)
        read = [self._svc.predict(_features(part)).tolist() for part in parts]
        return list(zip(*read, strict=True))


def is_caption(text: str, labels: Labels) -> bool:
    """Whether ``text`` is, word for word, one of the possible captions of these digits."""
    return text in ([c.format(WORDS[labels[0]]) for c in CAPTIONS] if len(labels) == 1 else [pair_caption(labels)])


def is_right_answer(text: str, labels: Labels) -> bool:
    return text == WORDS[labels[0]]


def is_infill(index: int, text: str, held_out: Digits) -> bool:
    """Whether ``text`` is the caption of digit number ``index`` whose word was a blank."""
    return text == CAPTIONS[index % len(CAPTIONS)].format(WORDS[held_out.labels[index]])


def judge(samples: Samples, classifier: DigitClassifier, held_out: Digits) -> dict[str, np.ndarray]:
    """Measure -> whether each of its examples is right: (n,) bool, in the order of the examples."""

    def drawn(drawings: Drawings) -> list[bool]:
        return [read == labels for read, labels in zip(classifier(drawings.images), drawings.labels, strict=True)]

    def read(readings, is_right) -> list[bool]:
        return [is_right(text, labels) for text, labels in zip(readings.texts, readings.labels, strict=True)]

    real = [read for (read,) in classifier(held_out.images)]
    verdicts = {
        "caption_exact_match": read(samples.captions, is_caption),
        "caption_exact_match_ancestral": read(samples.captions_ancestral, is_caption),
        "caption_exact_match_unanchored": read(samples.captions_unanchored, is_caption),
        "caption_exact_match_remasked": read(samples.captions_remasked, is_caption),
        "answer_accuracy": read(samples.answers, is_right_answer),
        "answer_accuracy_ancestral": read(samples.answers_ancestral, is_right_answer),
        "infill_accuracy": [is_infill(index, text, held_out) for index, text in enumerate(samples.infills)],
        "ranking_accuracy": np.equal(samples.rankings[:, 0], held_out.labels),
        "generation_accuracy": drawn(samples.digits),
        "classifier_accuracy": np.equal(real, held_out.labels),
        "composed_generation_accuracy": drawn(samples.pairs),
        "composed_generation_accuracy_unseen": drawn(samples.unseen_pairs),
        "composed_caption_accuracy": read(samples.pair_captions, is_caption),
        "composed_caption_accuracy_unseen": read(samples.unseen_pair_captions, is_caption),
    }
    return {name: np.asarray(verdicts[name], bool) for name in MEASURES}


def missed(scores: dict[str, float]) -> list[str]:
    """The names of the scores below their bounds."""
    return [name for name, m in MEASURES.items() if m.bound is not None and scores[name] < m.bound]


def _features(images: np.ndarray) -> np.ndarray:
    """(n, 8, 8) uint8 -> (n, 64), back on the scale of 0 to 16."""
    return images.reshape(len(images), -1) * (16.0 / 255.0)
