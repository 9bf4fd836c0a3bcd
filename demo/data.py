"""Writes the demo's data set: PNG files, JSON metadata, and a tokenizer of T5's layout.

python -m demo.data --output=runs/demo/data
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from demo.digits import CAPTIONS, PAIR_CAPTION, QUESTION, WORDS, Digits, compose, load, moved, pair_caption, split_pairs
from dualdiff_jax.data.tokenizer import MASK_TOKEN, QUESTION_TEMPLATE
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import new_folder
from dualdiff_jax.runtime.tokenizer_class import t5_tokenizer_class

IMAGES_PER_PAIR = 100
MARK = "moved_pairs.json"  # the file by which a folder is known as one of this program's
MOVED_COPIES = 4  # of each training digit, for image to text; text to image is trained on the original digits


def write(output: Path) -> None:
    """Writes the data set as the folder ``output``, whole or not at all.

    Args:
        output: the folder to write; an older data set there is replaced.

    Raises:
        UserError: the folder holds other files, or cannot be written.
    """
    with new_folder(output, MARK) as partial:
        _write(partial)


def _write(partial: Path) -> None:
    train, held_out = load()
    seen = split_pairs()[0]
    for prefix, digits in (("", train), ("moved_", moved(train, MOVED_COPIES, seed=0))):
        _metadata(partial / f"{prefix}digits.json", _digits(partial, f"{prefix}digits", digits))
        images, pairs = compose(digits, seen, IMAGES_PER_PAIR, seed=0)
        named = _images(partial, f"{prefix}pairs", images, pairs)
        records = [_record(path, images, caption=pair_caption(pair)) for path, pair in named]
        _metadata(partial / f"{prefix}pairs.json", records)
    list(_images(partial, "held_out", held_out.images, held_out.labels))
    write_tokenizer(partial / "tokenizer")


def write_tokenizer(folder: Path) -> None:
    """One token a word, in T5's layout: <pad>, </s>, <unk> first, <extra_id_0> last. Other words are unknown."""
    texts = [*CAPTIONS, PAIR_CAPTION, *WORDS, QUESTION_TEMPLATE.format(question=QUESTION)]
    words = sorted(
        {word for text in texts for word in text.replace("{}", "").replace("?", " ").replace(":", " ").split()}
    )
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"▁{word}", -2.0) for word in words] + [("?", -2.0), (":", -2.0), ("▁", -12.0), (MASK_TOKEN, 0.0)]
    t5_tokenizer_class()(vocab=vocabulary, extra_ids=1).save_pretrained(str(folder))


def _digits(output: Path, name: str, digits: Digits) -> list[dict]:
    """The record of each digit: two captions, and the question with its answer."""
    rng, records = np.random.default_rng(0), []
    for path, label in _images(output, name, digits.images, digits.labels):
        first, second = (CAPTIONS[i].format(WORDS[label]) for i in rng.permutation(len(CAPTIONS))[:2])
        texts = dict(caption=first, re_caption=second, question=QUESTION, answer=WORDS[label])
        records.append(_record(path, digits.images, **texts))
    return records


def _images(output: Path, name: str, images: np.ndarray, labels):
    """Writes each image; yields (path relative to output, label)."""
    (output / name).mkdir(parents=True)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = f"{name}/{index:05d}.png"
        Image.fromarray(image).save(output / path)
        yield path, label


def _record(path: str, images: np.ndarray, **texts: str) -> dict:
    height, width = images.shape[1:]
    return {"image_path": path, "ratio": width / height, "height": height, "width": width, **texts}


def _metadata(file: Path, records: list[dict]) -> None:
    file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo/data"))
    try:
        write(parser.parse_args().output)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
