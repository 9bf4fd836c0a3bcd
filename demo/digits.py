"""Handwritten digits, single and in pairs: images, split, and captions.

The pictures are scikit-learn's copy of the UCI optical recognition test set: 1,797 digits of 8 x 8 pixels,
values 0 to 16. 1,500 are for training, 297 are held out (stratified, seed 0). A pair is two digits side by
side; 15 of the 100 ordered pairs never occur in training. For image to text, training also has moved copies of digits.
"""

import dataclasses

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = ("a handwritten {}", "the number {} written by hand", "a photo of the digit {}")
PAIR_CAPTION = "a {} left of a {}"
QUESTION = "which digit is this?"
SIDE = 8  # pixels
HELD_OUT = 297
UNSEEN_PAIRS = 15

# The largest movement of a digit: enough to be a new image, too small to become another digit.
TURN, STRETCH, SHIFT = 10.0, 0.1, 0.5  # degrees, logarithm of a side's scale, pixels


@dataclasses.dataclass(frozen=True)
class Digits:
    """images (n, 8, 8) uint8, 255 is ink; labels (n,)."""

    images: np.ndarray
    labels: np.ndarray


def load() -> tuple[Digits, Digits]:
    """Returns (training digits, held-out digits)."""
    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(images, raw.target, test_size=HELD_OUT, stratify=raw.target, random_state=0)
    train_images, held_images, train_labels, held_labels = parts
    return Digits(train_images, train_labels), Digits(held_images, held_labels)


def moved(digits: Digits, copies: int, seed: int) -> Digits:
    """The original digits, then ``copies`` copies of each, randomly rotated, stretched and shifted a little."""
    rng = np.random.default_rng(seed)
    images = [_move(image, rng) for _ in range(copies) for image in digits.images]
    return Digits(np.concatenate([digits.images, images]), np.tile(digits.labels, copies + 1))


def _move(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    turn, stretch, shift = np.deg2rad(rng.uniform(-TURN, TURN)), rng.uniform(-STRETCH, STRETCH, 2), np.full(2, SHIFT)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    back = turned @ np.diag(np.exp(stretch))  # maps a pixel of the copy to its position in the original
    middle = np.full(2, SIDE / 2)
    start = middle - back @ (middle + rng.uniform(-shift, shift))
    affine = (*back[0], start[0], *back[1], start[1])
    copy = Image.fromarray(image).transform((SIDE, SIDE), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(copy)


def split_pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(pairs seen in training, pairs never seen); every digit is seen on the left and on the right."""
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
    """Images of pairs, made of digits drawn at random.

    Args:
        digits: where both halves are taken from.
        pairs: n pairs of labels.
        each: images of each pair.
        seed: of the draws.

    Returns:
        (images (n * each, 8, 16) uint8, the pair of each image).
    """
    rng = np.random.default_rng(seed)
    with_label = [np.flatnonzero(digits.labels == label) for label in range(10)]
    labels = [pair for pair in pairs for _ in range(each)]
    halves = [[digits.images[rng.choice(with_label[label])] for label in pair] for pair in labels]
    return np.stack([np.concatenate(pair, axis=1) for pair in halves]), labels


def pair_caption(pair: tuple[int, int]) -> str:
    return PAIR_CAPTION.format(*(WORDS[label] for label in pair))
