"""A run takes what the manifest of encoded data describes, or is refused if it does not fit."""

import json

import numpy as np
import pytest

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.bad_records import Origin
from dualdiff_jax.data.encoded import kind_of
from dualdiff_jax.data.examples import ExampleMaker
from dualdiff_jax.data.formats.array_record import write_records
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.reader_watchdog import ReadingNotes
from dualdiff_jax.data.records.manifest import IMAGES, LATENTS, LATENTS_AND_TEXT, MANIFEST, read_manifest
from dualdiff_jax.data.records.record import Record
from dualdiff_jax.data.tokenizer import T5_TOKENIZER, Tokenizer
from dualdiff_jax.errors import UserError

LENGTH = 8


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(T5_TOKENIZER)


def record(name: str, *embedded: str) -> Record:
    arrays = {f"text_embeddings/{caption}/0": np.full((LENGTH, 3), 0.5, np.float32) for caption in embedded}
    latents = {"latent_mean": np.zeros((2, 2, 1), np.float32)}
    return Record(name, captions={"caption": ("one",)}, size=(2, 2), arrays=latents | arrays)


def write(folder, tokenizer, task="image_generation", **changes):
    """A folder of two records, the second without its embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "a.array_record", [record("whole", "caption"), record("bare")])
    manifest = {
        "files": ["a.array_record"],
        "source": {"task": task},
        "text_length": LENGTH,
        "tokenizer": tokenizer.fingerprint(),
        "made_by": {},
        "fingerprints": {},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def config(folder, **changes) -> tuple[SourceConfig, DataConfig]:
    given = dict(name="some", task="image_generation", format="array_record", root=str(folder), files="*.array_record")
    given |= dict(height=2, width=2)
    both = [given, given | dict(name="read", task="captioning")]
    data = {"sources": both, "tokenizer": str(T5_TOKENIZER), "text_length": LENGTH}
    return resolve(given | changes, SourceConfig), resolve(data, DataConfig)


def test_the_kind_of_a_source(tmp_path, tokenizer):
    write(tmp_path / "draw", tokenizer)
    write(tmp_path / "read", tokenizer, task="captioning")
    assert kind_of(*config(tmp_path / "draw"), tokenizer) == LATENTS_AND_TEXT
    assert kind_of(*config(tmp_path / "draw", task="captioning"), tokenizer) == LATENTS
    assert kind_of(*config(tmp_path / "read"), tokenizer) == LATENTS
    assert kind_of(*config(tmp_path / "images"), tokenizer) == IMAGES
    assert kind_of(*config(tmp_path / "draw", format="json", files="list.json"), tokenizer) == IMAGES


def test_roots_of_two_kinds_are_refused(tmp_path, tokenizer):
    write(tmp_path / "draw", tokenizer)
    more = dict(root=str(tmp_path / "images"), files="*.array_record")
    with pytest.raises(UserError, match="source 'some' would read latents and embeddings of captions .* and images "):
        kind_of(*config(tmp_path / "draw", roots=[more]), tokenizer)


def test_a_damaged_and_an_unfinished_folder_are_refused(tmp_path, tokenizer):
    assert read_manifest(tmp_path) is None
    write(tmp_path, tokenizer, files=["a.array_record", "b.array_record"])
    with pytest.raises(UserError, match="encoding is not finished, 1 of 2 files are missing"):
        read_manifest(tmp_path)
    for text in ("{", "[]", '{"files": []}', "[" * 5000, '{"files": 1e400}'):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(UserError, match=f"encoded.json: .*; the manifest is damaged, remove {tmp_path} and"):
            read_manifest(tmp_path)


WRONG = {
    **{"files": [3, "a", [3], {}], "source": [3, {}, {"task": 3}], "text_length": ["12", None, 1.5]},
    **{"tokenizer": [3, {}], "made_by": [3, [], {"t5": 3}]},
    "fingerprints": [3, [], {"t5": 3}, {"t5": {"a": [1.0]}}, {"t5": {"a": ["b", 1]}}],
    "inputs": [3, [], {"a": 3}, {"a": [1, 2]}, {"a": [1, 2, 3]}, {"a": [1.5, 2, "x"]}, {"a": [1, 2, "x", 4]}],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_of_wrong_types_is_refused_with_the_place(tmp_path, tokenizer, name):
    write(tmp_path, tokenizer)
    right = json.loads((tmp_path / MANIFEST).read_text())
    assert read_manifest(tmp_path) is not None
    for value in WRONG[name]:
        (tmp_path / MANIFEST).write_text(json.dumps(right | {name: value}))
        with pytest.raises(UserError, match=f"encoded.json: .*{name}.*; the manifest is damaged"):
            read_manifest(tmp_path)


def test_a_record_without_the_embeddings_of_its_caption_is_bad(tmp_path, tokenizer):
    write(tmp_path, tokenizer)
    source, data = config(tmp_path)
    maker = ExampleMaker(source, data, tokenizer, open_source(source), (2, 2), range(2), ReadingNotes(), True)
    example, origin = maker(1, np.random.default_rng(0))
    assert (origin.record_id, [fault.cause for fault in origin.faults]) == ("whole", ["absent key"])
    assert example["text_embeddings"].shape == (LENGTH, 3)


def test_embeddings_are_read_only_if_asked_for(tmp_path, tokenizer):
    write(tmp_path, tokenizer)
    source, data = config(tmp_path)
    maker = ExampleMaker(source, data, tokenizer, open_source(source), (2, 2), range(2), ReadingNotes())
    example, origin = maker(0, np.random.default_rng(0))
    assert origin == Origin("some", "whole", (), 0) and "text_embeddings" not in example
