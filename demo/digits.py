"""Handwritten digits, one by one and in pairs: what there is, how it is split, and what is said about it.

The pictures are scikit-learn's copy of the UCI optical recognition test set: 1,797 digits of 8 x 8 pixels,
values 0 to 16. 1,500 are for training, 297 are held out (stratified, seed 0). A pair is two digits side by
side; 15 of the 100 ordered pairs never occur in training.
"""

import dataclasses

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = ("a handwritten {}", "the number {} written by hand", "a photo of the digit {}")
PAIR_CAPTION = "a {} left of a {}"
QUESTION = "which digit is this?"
SIDE = 8  # pixels
HELD_OUT = 297
UNSEEN_PAIRS = 15


@dataclasses.dataclass(frozen=True)
class Digits:
    """images (n, 8, 8) uint8, 255 is ink; labels (n,)."""

    images: np.ndarray
    labels: np.ndarray


def load() -> tuple[Digits, Digits]:
    """(training digits, held-out digits)."""
    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(images, raw.target, test_size=HELD_OUT, stratify=raw.target, random_state=0)
    train_images, held_images, train_labels, held_labels = parts
    return Digits(train_images, train_labels), Digits(held_images, held_labels)


def split_pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(pairs seen in training, pairs never seen); every digit is seen on both sides."""
    rng = np.random.default_rng(0)
    pairs = [(left, right) for left in range(10) for right in range(10)]
    while True:
        order = rng.permutation(len(pairs))
        unseen = sorted(pairs[i] for i in order[:UNSEEN_PAIRS])
        seen = [pair for pair in pairs if pair not in unseen]
        if {left for left, _ in seen} == {right for _, right in seen} == set(range(10)):
            return seen, unseen


def compose(
    digits: Digits, pairs: list[tuple[int, int]], each: int, seed: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """((n * each, 8, 16) uint8, their pairs): each pair ``each`` times, from digits drawn at random."""
    rng = np.random.default_rng(seed)
    of_label = [np.flatnonzero(digits.labels == label) for label in range(10)]
    labels = [pair for pair in pairs for _ in range(each)]
    halves = [[digits.images[rng.choice(of_label[label])] for label in pair] for pair in labels]
    return np.stack([np.concatenate(pair, axis=1) for pair in halves]), labels


def pair_caption(pair: tuple[int, int]) -> str:
    return PAIR_CAPTION.format(*(WORDS[label] for label in pair))
