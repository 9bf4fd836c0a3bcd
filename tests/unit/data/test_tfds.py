"""Data sets that TensorFlow Datasets prepared are read by folder and by name, without TensorFlow."""

import pickle
import sys

import pytest
import tensorflow_datasets as tfds

from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.records.record import Turn
from dualdiff_jax.errors import UserError
from tests.unit.data import photos
from tests.unit.data.photos import content, source
from tests.unit.data.tiny_photos import TinyPhotos

KEYS = dict(format="tfds", image_key="image", caption_keys=("captions/text",), caption_weights=(1.0,))
FOLDER = "tiny_photos/1.0.0"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    builder = TinyPhotos(data_dir=str(root), file_format=tfds.core.FileFormat.ARRAY_RECORD)
    builder.download_and_prepare()
    return root


@pytest.mark.parametrize("files", [FOLDER, "tiny_photos"])
def test_a_prepared_data_set_is_read_by_folder_and_by_name(root, files):
    found = open_source(source(root, files, **KEYS))
    assert len(found) == photos.COUNT
    records = sorted((found[i] for i in range(photos.COUNT)), key=lambda record: record.captions["captions/text"])
    expected = sorted(range(photos.COUNT), key=lambda i: photos.fields(i)["caption"])
    assert [content(record) for record in records] == [photos.jpeg(i) for i in expected]
    assert [record.captions["captions/text"] for record in records] == [
        (photos.fields(i)["caption"], photos.fields(i)["re_caption"]) for i in expected
    ]
    again = pickle.loads(pickle.dumps(found))
    assert content(again[3]) == content(found[3]) and again[3].record_id == f"{files}/train[3]"
    assert "tensorflow" not in sys.modules


def test_questions_of_a_prepared_data_set(root):
    found = open_source(source(root, FOLDER, **KEYS, task="instruction"))
    assert {found[i].turns[0] for i in range(photos.COUNT)} == {
        Turn(photos.fields(i)["question"], photos.fields(i)["answer"]) for i in range(photos.COUNT)
    }


@pytest.mark.parametrize(("files", "split"), [("nothing_here", "train"), (FOLDER, "nosplit")])
def test_a_missing_name_or_split_is_reported(root, files, split):
    with pytest.raises(UserError, match="cannot be opened .*name a folder that was prepared") as error:
        open_source(source(root, files, **KEYS, split=split))
    assert str(root) in str(error.value)
