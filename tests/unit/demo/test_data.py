"""The demo's data: its split, its records and its tokenizer."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from configs.demo import VOCABULARY, get_config
from demo import data
from demo.data import MOVED_COPIES
from demo.digits import (
    CAPTIONS,
    HELD_OUT,
    QUESTION,
    UNSEEN_PAIRS,
    WORDS,
    compose,
    load,
    moved,
    pair_caption,
    split_pairs,
)
from demo.scores import DigitClassifier
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "IMAGES_PER_PAIR", 1)
        data.write(folder)
    return folder


def _pictures(images):
    return {image.tobytes() for image in images}


def test_every_digit_is_on_one_side_of_the_split():
    train, held_out = load()
    assert (len(train.images), len(held_out.images)) == (1500, HELD_OUT) == (1500, 297)
    all_images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    both = np.concatenate([train.images, held_out.images])
    assert sorted(i.tobytes() for i in both) == sorted(i.tobytes() for i in all_images)
    assert not _pictures(train.images) & _pictures(held_out.images)


def test_both_sides_have_the_same_share_of_every_digit():
    train, held_out = load()
    shares = np.bincount(train.labels) / 1500, np.bincount(held_out.labels) / 297
    np.testing.assert_allclose(*shares, atol=1 / 297)


def test_the_split_is_the_same_every_time():
    for first, second in zip(load(), load(), strict=True):
        np.testing.assert_array_equal(first.images, second.images)
    assert split_pairs() == split_pairs()


def test_pairs_are_seen_or_unseen_and_every_digit_is_seen_on_both_sides():
    seen, unseen = split_pairs()
    assert len(unseen) == UNSEEN_PAIRS == 15
    assert not set(seen) & set(unseen)
    assert len(set(seen) | set(unseen)) == 100
    assert {left for left, _ in seen} == {right for _, right in seen} == set(range(10))


def test_a_composed_image_is_made_of_digits_of_its_own_set():
    _, held_out = load()
    images, labels = compose(held_out, [(3, 7), (0, 0)], each=4, seed=1)
    assert images.shape == (8, 8, 16)
    assert labels == [(3, 7)] * 4 + [(0, 0)] * 4
    for image, pair in zip(images, labels, strict=True):
        for half, label in zip(np.split(image, 2, axis=1), pair, strict=True):
            assert np.ascontiguousarray(half).tobytes() in _pictures(held_out.images[held_out.labels == label])


def test_moved_digits_are_the_originals_and_new_ones_that_read_the_same():
    """A classifier of real digits reads the copies nearly as well as held-out real digits."""
    train, held_out = load()
    more = moved(train, copies=2, seed=3)
    assert more.images.shape == (4500, 8, 8) and more.images.dtype == np.uint8
    np.testing.assert_array_equal(more.images[:1500], train.images)
    np.testing.assert_array_equal(more.labels, np.tile(train.labels, 3))
    assert len(_pictures(more.images)) > 0.99 * 4500
    assert not _pictures(more.images) & _pictures(held_out.images)
    read = DigitClassifier(train)(more.images[1500:])
    assert np.mean([label for (label,) in read] == more.labels[1500:]) > 0.94
    np.testing.assert_array_equal(moved(train, copies=2, seed=3).images, more.images)


@pytest.mark.parametrize("name, count", [("digits", 1500), ("moved_digits", 7500), ("pairs", 85), ("moved_pairs", 85)])
def test_every_record_has_its_fields_and_its_image(written, name, count):
    records = json.loads((written / f"{name}.json").read_text(encoding="utf-8"))
    assert len(records) == count
    texts = {"caption"} if "pairs" in name else {"caption", "re_caption", "question", "answer"}
    for record in records:
        assert set(record) == {"image_path", "ratio", "height", "width"} | texts
        assert record["ratio"] == record["width"] / record["height"]
        assert all(isinstance(record[key], str) and record[key] for key in texts)
    for record in records[::97]:
        with Image.open(written / record["image_path"]) as image:
            assert (image.width, image.height) == (record["width"], record["height"])


def test_texts_belong_to_their_images(written):
    train, _ = load()
    digits, copies = (json.loads((written / f"{name}.json").read_text()) for name in ("digits", "moved_digits"))
    assert [record["answer"] for record in copies] == [record["answer"] for record in digits] * (MOVED_COPIES + 1)
    for index, label in enumerate(train.labels):
        valid = {caption.format(WORDS[label]) for caption in CAPTIONS}
        captions = {digits[index]["caption"], digits[index]["re_caption"]}
        assert captions < valid and len(captions) == 2
        assert (digits[index]["question"], digits[index]["answer"]) == (QUESTION, WORDS[label])
    with Image.open(written / digits[7]["image_path"]) as image:
        np.testing.assert_array_equal(np.asarray(image), train.images[7])


@pytest.mark.parametrize("name", ["pairs", "moved_pairs"])
def test_no_unseen_pair_is_written(written, name):
    captions = {record["caption"] for record in json.loads((written / f"{name}.json").read_text(encoding="utf-8"))}
    seen, unseen = split_pairs()
    assert captions == {pair_caption(pair) for pair in seen}
    assert not captions & {pair_caption(pair) for pair in unseen}


def test_the_demo_config_reads_the_written_records(written):
    config = get_config()
    for source in config.data.sources:
        source["root"] = str(written)
    run = resolve(config)
    assert [len(open_source(source)) for source in run.data.sources] == [1500, 85, 7500, 7500, 85]


def test_the_tokenizer_spells_every_text_and_fits_the_config(written):
    tokenizer = Tokenizer(written / "tokenizer")
    assert tokenizer.vocab_size == VOCABULARY
    texts = [caption.format(word) for caption in CAPTIONS for word in WORDS]
    texts += [pair_caption((left, right)) for left in range(10) for right in range(10)]
    for text in texts:
        assert tokenizer.unknown_words(text) == []
        assert tokenizer.decode(tokenizer.caption_ids(text, 12)) == text
    assert len(tokenizer.question_ids(QUESTION, 12)) <= 10  # leaves room for a word and its end


def test_writing_again_replaces_the_folder(written, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "IMAGES_PER_PAIR", 1)
    folder = tmp_path / "data"
    folder.mkdir()
    data.write(folder)
    (folder / "old").touch()
    data.write(folder)
    assert not (folder / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    for name in ("digits.json", "moved_digits.json", "moved_pairs.json", "tokenizer/tokenizer.json"):
        assert (folder / name).read_bytes() == (written / name).read_bytes()


def test_a_folder_of_other_files_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", None)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        data.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
