"""The turns and the answer that an example takes are those that its source's config asks for."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.data import write_tokenizer
from dualdiff_jax.config import DataConfig
from dualdiff_jax.data.examples import ExampleMaker
from dualdiff_jax.data.reader_watchdog import ReadingNotes
from dualdiff_jax.data.records.record import Record, Turn
from dualdiff_jax.data.tokenizer import Tokenizer
from tests.unit.data.photos import source

ONE = Record("one", turns=(Turn("which digit is this?", "three"),), answers=("three", "three", "four", " ", ""))
TWO = Record("two", turns=(Turn("which digit is this?", "three"), Turn("which digit?", "seven")))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


def texts(tokenizer, record, length=64, **fields) -> set[str]:
    """The answers of 30 examples of ``record``."""
    config = source(Path("root"), "files", task="instruction", **fields)
    data = DataConfig(sources=(config,), tokenizer="", text_length=length)
    maker = ExampleMaker(config, data, tokenizer, [record], None, [0], ReadingNotes())  # pyright: ignore
    found = set()
    for seed in range(30):
        example, _ = maker(0, np.random.default_rng(seed))
        found.add(tokenizer.decode_all(example["token_ids"][example["is_answer"]]))
    return found


def test_the_answer_of_the_record_or_of_a_random_annotator(tokenizer):
    assert texts(tokenizer, ONE) == {"three"}
    assert texts(tokenizer, ONE, answer_choice="random") == {"three", "four"}  # blank ones are no answers
    assert texts(tokenizer, TWO, answer_choice="random") == texts(tokenizer, TWO)


def test_all_turns_or_the_first(tokenizer):
    (both,), (first,) = texts(tokenizer, TWO), texts(tokenizer, TWO, turns="first")
    assert first == "three" and "seven" in both


def test_an_image_that_many_questions_are_about_is_kept_once(tokenizer, tmp_path):
    """With room for two images, all questions about two of three are made without reading their files again."""
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    turn = (Turn("which digit is this?", "three"),)
    records = [Record(f"r{n}", tmp_path / f"{n % 3}.png", turns=turn) for n in range(9)]
    config = source(tmp_path, "x.json", task="instruction")
    data = DataConfig(sources=(config,), tokenizer="", text_length=64, cache_images=2)
    maker = ExampleMaker(config, data, tokenizer, records, (8, 8), range(9), ReadingNotes())  # pyright: ignore
    first = [maker(n, np.random.default_rng(0))[0]["image"] for n in range(9)]
    for number in range(2):
        (tmp_path / f"{number}.png").unlink()
    again = [maker(n, np.random.default_rng(0))[0]["image"] for n in range(9)]
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert len({image.tobytes() for image in first}) == 3


def test_records_of_one_id_have_their_own_images(tokenizer, tmp_path):
    """Two shards of one name in two folders, as ``part-*/00000.tar`` finds them."""
    stored = []
    for shade in (10, 200):
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(tmp_path / "x.png")
        stored.append((tmp_path / "x.png").read_bytes())
    turn = (Turn("which digit is this?", "three"),)
    records = [Record("00000.tar[0] 0.png", image, turns=turn) for image in stored]
    config = source(tmp_path, "x.json", task="instruction")
    data = DataConfig(sources=(config,), tokenizer="", text_length=64, cache_images=9)
    maker = ExampleMaker(config, data, tokenizer, records, (8, 8), range(2), ReadingNotes())  # pyright: ignore
    for _ in range(2):
        assert [int(maker(n, np.random.default_rng(0))[0]["image"][0, 0, 0]) for n in (0, 1)] == [10, 200]
