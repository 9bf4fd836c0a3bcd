"""Writes easy-VQA in VQAv2's layout, with a tokenizer of T5's layout.

    pip install --no-deps --target runs/easy_vqa/package easy-vqa==1.0
    python -m demo.easy_vqa --package=runs/easy_vqa/package --output=runs/easy_vqa/data

easy-VQA (https://github.com/vzhou842/easy-VQA, MIT): a shape of one color on a light ground, 64 x 64 pixels; 4,000
images with 38,575 questions for training, 1,000 with 9,673 for the test; 13 answers. The output holds
    the training split as ``train``, its images also as copies with the shape elsewhere;
    the test split as ``val``, whose answers VQAv2 publishes, and with grey images in the folder ``blind``;
    ``hints_*.json``, training questions with more answers than the published one (``hints``);
    ``balanced_*.json``, training questions in the shares of ``SHARES`` (``balanced``).
A question has ten annotators of one opinion, and its kind (``KINDS``) as ``answer_type``.
"""

import argparse
import collections
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dualdiff_jax.data.tokenizer import MASK_TOKEN, QUESTION_TEMPLATE
from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.files import new_folder
from dualdiff_jax.json_files import checked, read_json
from dualdiff_jax.runtime.tokenizer_class import t5_tokenizer_class

COPIES = 3  # of each training image, the original among them
SPLITS = {"train": "train", "test": "val"}  # of easy-VQA -> of VQAv2
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
KINDS = ("color", "shape", "yes/no")
NEGATIONS = ("no", "not")
ANNOTATORS = 10  # of each of VQAv2's questions
SHARES = {"color": 1, "shape": 4, "a color": 2, "no color": 2, "a shape": 2, "no shape": 2}  # of ``Asked.group``
SEEN, NAMED = 3, 3  # of them, in a hint: annotators who answer what is there, and what the question names
BLIND, GREY = "blind", 128
MARK = "balanced_questions.json"  # the file by which a folder is known as one of this program's
QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_{}2014_questions.json", "v2_mscoco_{}2014_annotations.json"


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question about an image, with its answer."""

    question: str
    answer: str
    image: int

    @property
    def kind(self) -> str:
        """One of ``KINDS``."""
        return "color" if self.answer in COLORS else "shape" if self.answer in SHAPES else "yes/no"

    @property
    def named(self) -> str:
        """The color or the shape that the question names; "" if it names none."""
        return next((word for word in self._words if word in COLORS + SHAPES), "")

    @property
    def is_negated(self) -> bool:
        """Whether it asks if something is not there."""
        return self.kind == "yes/no" and any(word in NEGATIONS for word in self._words)

    @property
    def group(self) -> str:
        """One of ``SHARES``: the kind; of yes/no, whether a color or a shape is asked for, and a "no" for negation."""
        if self.kind != "yes/no":
            return self.kind
        return f"{'no' if self.is_negated else 'a'} {'color' if self.named in COLORS else 'shape'}"

    @property
    def shown(self) -> list[str]:
        """The colors and shapes that the image has, as far as question and answer tell."""
        if self.kind == "yes/no":
            return [self.named] if (self.answer == "yes") != self.is_negated else []
        return [word for word in (self.named, self.answer) if word]

    @property
    def _words(self) -> list[str]:
        return self.question.rstrip("?").split()


def write(package: Path, output: Path, copies: int = COPIES) -> None:
    """Writes the data set as the folder ``output``, whole or not at all.

    Args:
        package: folder that holds ``easy_vqa``, as pip installs it.
        output: the folder to write; an older data set there is replaced.
        copies: of each training image, the original among them.

    Raises:
        UserError: a file of the package is missing or does not hold what easy-VQA's holds; or ``output`` holds other
            files, or cannot be written.
    """
    with new_folder(output, MARK) as partial:
        _write(package, partial, copies)


def _write(package: Path, partial: Path, copies: int) -> None:
    for split, name in SPLITS.items():
        asked = read_questions(package, split)
        images = [read_image(package, split, number) for number in range(1 + max(each.image for each in asked))]
        count, times = len(images), copies if name == "train" else 1
        images = [*images, *moved(images, times - 1, seed=0)]
        asked = [dataclasses.replace(each, image=each.image + turn * count) for turn in range(times) for each in asked]
        official = [(each, [each.answer] * ANNOTATORS) for each in asked]
        _write_images(partial, name, images)
        _write_questions(partial, QUESTIONS.format(name), ANNOTATIONS.format(name), official)
        if name == "train":
            _write_questions(partial, "hints_questions.json", "hints_annotations.json", hints(asked))
            even = [(each, [each.answer] * ANNOTATORS) for each in balanced(asked, seed=0)]
            _write_questions(partial, "balanced_questions.json", "balanced_annotations.json", even)
            write_tokenizer(partial / "tokenizer", asked)
        else:
            _write_images(partial / BLIND, name, [np.full_like(image, GREY) for image in images])
            _write_questions(partial / BLIND, QUESTIONS.format(name), ANNOTATIONS.format(name), official)


def read_questions(package: Path, split: str) -> list[Asked]:
    """The questions of a split of the package, in their order.

    Raises:
        UserError: the file is missing, or it is no list of a question, an answer and the number of an image each.
    """
    file = package / "easy_vqa" / "data" / split / "questions.json"
    asked = []
    for index, row in enumerate(checked(read_json(file), list, str(file))):
        if not isinstance(row, list) or [type(field) for field in row] != [str, str, int]:
            raise UserError(
                f"{file}: question {index} is {quoted(row)}, not a question, an answer and the number of an image; "
                "install easy-vqa==1.0 again"
            )
        asked.append(Asked(*row))
    return asked


def read_image(package: Path, split: str, number: int) -> np.ndarray:
    """An image of the package: (64, 64, 3) uint8. Raises ``UserError`` if it cannot be read."""
    file = package / "easy_vqa" / "data" / split / "images" / f"{number}.png"
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)}); install easy-vqa==1.0 again") from error


def moved(images: Sequence[np.ndarray], copies: int, seed: int) -> list[np.ndarray]:
    """``copies`` copies of each image: the shape at a place of its own, and half of them mirrored."""
    rng = np.random.default_rng(seed)
    return [_move(image, rng) for _ in range(copies) for image in images]


def _move(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves what differs from the ground, whole, to where it fits. The ground has one color."""
    image = image[:, ::-1] if rng.random() < 0.5 else image
    colors, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    is_shape = (image != colors[counts.argmax()]).any(axis=-1)
    shift = []
    for axis in (1, 0):
        inside = np.flatnonzero(is_shape.any(axis=axis))
        first, last = (inside[0], inside[-1]) if len(inside) else (0, 0)
        shift.append(int(rng.integers(-first, is_shape.shape[0] - last)))
    return np.roll(image, shift, axis=(0, 1))


def hints(asked: Sequence[Asked]) -> list[tuple[Asked, list[str]]]:
    """What the first stage learns from: questions with the answers of all annotators.

    Whether an image has what a question names depends on two words that say nothing apart, and a negation turns the
    answer round; a new model finds no direction that helps. So here no question is negated, yes is as frequent as no,
    and some annotators answer what is there, or what the question names: the model learns to see both where it
    answers.
    """
    seen = {(each.image, word in COLORS): word for each in asked for word in each.shown}
    plain = [each for each in asked if not each.is_negated]
    counts = collections.Counter((each.named in COLORS, each.answer) for each in plain if each.kind == "yes/no")
    found = []
    for each in plain:
        if each.kind != "yes/no":
            found.append((each, [each.answer] * ANNOTATORS))
            continue
        is_color = each.named in COLORS
        there = seen.get((each.image, is_color), each.answer)
        answers = [there] * SEEN + [each.named] * NAMED + [each.answer] * (ANNOTATORS - SEEN - NAMED)
        times = round(counts[is_color, "no"] / counts[is_color, "yes"]) if each.answer == "yes" else 1
        found += [(each, answers)] * times
    return found


def balanced(asked: Sequence[Asked], seed: int) -> list[Asked]:
    """What the second stage learns from: about as many questions as are given, in shares that no answer gains from.

    Nine in ten answers to "is there a red shape?" are no, so a model gains more from the question than from the image.
    Here each group has its share (``SHARES``), and within a group all answers are equally frequent.

    Args:
        asked: the questions to draw from; of a rare answer each is taken several times.
        seed: of the order in which the questions of one answer are taken.
    """
    rng = np.random.default_rng(seed)
    alike: dict[str, dict[str, list[Asked]]] = {group: {} for group in SHARES}
    for each in asked:
        alike[each.group].setdefault(each.answer, []).append(each)
    found = []
    for group, by_answer in alike.items():
        for questions in by_answer.values():
            count = math.ceil(len(asked) * SHARES[group] / sum(SHARES.values()) / len(by_answer))
            found += [questions[index] for index in np.resize(rng.permutation(len(questions)), count)]
    return found


def write_tokenizer(folder: Path, asked: Sequence[Asked]) -> None:
    """One token a word, in T5's layout: <pad>, </s>, <unk> first, <extra_id_0> last. Other words are unknown."""
    texts = {QUESTION_TEMPLATE.format(question=each.question) for each in asked} | {each.answer for each in asked}
    words = sorted({word for text in texts for word in text.split()} | set(COLORS) | set(SHAPES))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"▁{word}", -2.0) for word in words] + [("▁", -12.0), (MASK_TOKEN, 0.0)]
    t5_tokenizer_class()(vocab=vocabulary, extra_ids=1).save_pretrained(str(folder))


def _write_images(folder: Path, split: str, images: Sequence[np.ndarray]) -> None:
    name = f"{split}2014"
    (folder / name).mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / name / f"COCO_{name}_{number:012d}.png")


def _write_questions(
    folder: Path, questions: str, annotations: str, asked: Sequence[tuple[Asked, Sequence[str]]]
) -> None:
    """The two files of a split, from questions with the answers of all annotators."""
    rows: dict[str, list[dict]] = {"questions": [], "annotations": []}
    for number, (each, answers) in enumerate(asked):
        ids = {"image_id": each.image, "question_id": number}
        rows["questions"].append({**ids, "question": each.question})
        rows["annotations"].append(
            {
                **ids,
                "question_type": " ".join(each.question.split()[:2]),
                "answer_type": each.kind,
                "multiple_choice_answer": each.answer,
                "answers": [
                    {"answer_id": annotator, "answer": answer, "answer_confidence": "yes"}
                    for annotator, answer in enumerate(answers, 1)
                ],
            }
        )
    for file, key in ((questions, "questions"), (annotations, "annotations")):
        (folder / file).write_text(json.dumps({key: rows[key]}) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="folder that pip installed easy-vqa into")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    try:
        write(options.package, options.output)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
