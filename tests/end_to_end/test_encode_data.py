"""The outputs of the frozen networks are stored once, and training from them is training from the images."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.cli import data as cli_data
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.encoding import chunks
from dualdiff_jax.encoding.frozen_encoder import FrozenEncoder
from dualdiff_jax.encoding.writer import encode_sources
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.joint import ImageExamples, TextExamples
from dualdiff_jax.objectives.latents import clean_latents
from dualdiff_jax.sharding import make_mesh
from tests.end_to_end.command import refused, run
from tests.small_run import RECORDS, objective_of, small_config, small_run, write_config, write_data
from tests.unit.data import photos
from tests.unit.tiny import random_weights


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """(config, tokenizer, encoder, weights, folder)."""
    folder = tmp_path_factory.mktemp("encode")
    config, tokenizer = small_run(folder / "data")
    weights = random_weights(config.model)
    return (
        config,
        tokenizer,
        FrozenEncoder(config.model, weights, make_mesh(config.mesh, jax.devices()[:1])),
        weights,
        folder,
    )


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(chunks, "RECORDS_PER_FILE", 16)


def encode(setting, output, config: RunConfig | None = None, **options) -> dict[str, Path]:
    default, tokenizer, encoder, *_ = setting
    data = (config or default).data
    return encode_sources(data, encoder, tokenizer, output, made_by={"model": "test"}, **options)


def from_encoded(config: RunConfig, folders: dict[str, Path]) -> RunConfig:
    """The same config over the encoded data."""
    sources = [
        dataclasses.replace(source, format="array_record", root=str(folders[source.name]), files="*.array_record")
        for source in config.data.sources
    ]
    return resolve(to_dict(dataclasses.replace(config, data=dataclasses.replace(config.data, sources=tuple(sources)))))


def mixture(config, tokenizer) -> Mixture:
    return Mixture(config.data, tokenizer, seed=0, global_batch_size=config.train.global_batch_size)


def losses(setting, batch: Batch) -> dict[str, jax.Array]:
    config, tokenizer, _, weights, _ = setting
    model = bind(config.model, weights)
    rng_image, rng_text, rng = jax.random.split(jax.random.key(5), 3)
    latents = [
        clean_latents(part, model.autoencoder.encode, key)
        for part, key in zip(batch, (rng_image, rng_text), strict=True)
    ]
    objective = objective_of(config, tokenizer)
    corrupted = objective.corrupt(
        rng,
        ImageExamples(latents[0], jnp.asarray(batch.image["token_ids"])),
        TextExamples(latents[1], jnp.asarray(batch.text["token_ids"]), jnp.asarray(batch.text["is_answer"])),
    )
    return objective.loss(model, corrupted)[1]


def test_training_from_encoded_data_has_the_losses_of_training_from_images(setting):
    config, tokenizer, _, _, folder = setting
    encoded = from_encoded(config, encode(setting, folder / "whole"))
    images, latents = mixture(config, tokenizer), mixture(encoded, tokenizer)
    assert images.counts() == latents.counts()
    for step in (0, 7):
        assert [[o.record_id for o in part] for part in images.origins(step).values()] == [
            [o.record_id for o in part] for part in latents.origins(step).values()
        ]
        one, other = images.batch(step), latents.batch(step)
        assert "image" not in other.image and other.image["latent_mean"].dtype == jnp.bfloat16
        for part, stored in zip(one, other, strict=True):
            clean = bind(config.model, setting[3]).autoencoder.encode(jnp.asarray(part["image"]))
            np.testing.assert_allclose(stored["latent_mean"].astype(np.float32), clean, rtol=2.0**-8)
        expected, found = losses(setting, one), losses(setting, other)
        for name, value in expected.items():
            assert np.linalg.norm(found[name] - value) <= 2.0**-8 * np.linalg.norm(value), name


def test_stored_embeddings_of_a_caption_are_t5s(setting):
    config, tokenizer, _, weights, folder = setting
    encoded = from_encoded(config, encode(setting, folder / "texts"))
    batch = mixture(encoded, tokenizer).batch(3)
    embeddings = batch.image["text_embeddings"]
    assert embeddings.shape == (4, config.data.text_length, config.model.t5.width) and embeddings.dtype == jnp.bfloat16
    expected = bind(config.model, weights).encode_text(jnp.asarray(batch.image["token_ids"]))
    np.testing.assert_array_equal(embeddings, expected.astype(jnp.bfloat16))
    assert "text_embeddings" not in batch.text


class Killed(Exception):
    pass


def test_a_killed_run_continues_with_the_next_file_and_ends_the_same(setting, tmp_path, small_files):
    config, tokenizer, encoder, *_ = setting
    whole = encode(setting, tmp_path / "whole")
    calls = []

    def kill(done, total):
        calls.append((done, total))
        if len(calls) == 4:
            raise Killed

    with pytest.raises(Killed):
        encode(setting, tmp_path / "killed", progress=kill)
    (tmp_path / "killed" / "captions" / ".8x8-000001.array_record.0.partial").write_bytes(b"half a file")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").rglob("*.array_record")}
    assert len(kept) == 4 and calls[0] == (16, 3 * RECORDS)
    encoded = from_encoded(config, {name: tmp_path / "killed" / name for name in whole})
    with pytest.raises(UserError, match="encoding is not finished, 2 of 3 files are missing"):
        open_source(encoded.data.sources[1])
    calls.clear()
    folders = encode(setting, tmp_path / "killed", progress=lambda *call: calls.append(call))
    assert calls[-1] == (3 * RECORDS - 56, 3 * RECORDS - 56)
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    for source in from_encoded(config, folders).data.sources:
        again = open_source(source)
        first = open_source(dataclasses.replace(source, root=str(whole[source.name])))
        assert len(again) == len(first) == RECORDS
        for index in range(RECORDS):
            assert again[index].record_id == first[index].record_id == f"{config_file(source)}[{index}]"
            for name, value in first[index].arrays.items():
                np.testing.assert_array_equal(again[index].arrays[name], value)


def config_file(source):
    return "questions.json" if source.name == "questions" else "captions.json"


def test_hosts_share_the_work(setting, tmp_path, small_files):
    config, *_ = setting
    done = []
    for host in range(2):
        folders = encode(setting, tmp_path, host=host, hosts=2, progress=lambda n, total: done.append(total))
        files = len(list(tmp_path.rglob("*.array_record")))
        assert files == (5, 9)[host]
    assert [len(open_source(source)) for source in from_encoded(config, folders).data.sources] == [RECORDS] * 3


def test_a_folder_of_another_config_is_refused(setting, tmp_path):
    config, tokenizer, encoder, *_ = setting
    encode(setting, tmp_path)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, text_length=11))
    told = r"images: holds the data of another config or model \(text_length 12 in place of 11\); choose another"
    with pytest.raises(UserError, match=told):
        encode(setting, tmp_path, other)


def test_bad_records_are_left_out_and_named(setting, tmp_path):
    write_data(tmp_path / "data")
    (tmp_path / "data" / "images" / "5.png").write_bytes(b"bad")
    config = resolve(small_config(tmp_path / "data"))
    folders = encode(setting, tmp_path / "out", config)
    assert [len(open_source(s)) for s in from_encoded(config, folders).data.sources] == [RECORDS - 1] * 3
    (line,) = (folders["captions"] / "bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["record"] == "captions.json[5]" and json.loads(line)["cause"] == "unreadable"


def test_buckets_and_texts_without_an_image_come_back_as_they_were(setting, tmp_path):
    default, tokenizer, *_ = setting
    photos.write_json(tmp_path)
    turns = [{"from": "human", "value": "which digit is this?"}, {"from": "gpt", "value": "three"}]
    talk = [{"conversations": turns} | ({"image": f"images/{i}.jpg"} if i < 6 else {}) for i in range(8)]
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    common = dict(root=str(tmp_path), height=8, width=8, buckets=((6, 10),))
    given = to_dict(default)
    given["data"]["sources"] = [
        dict(name="draw", task="image_generation", files="list.json", **common),
        dict(name="talk", task="instruction", format="llava", files="talk.json", **common),
    ]
    config = resolve(given)
    encoded = from_encoded(config, encode(setting, tmp_path / "out", config))
    images, latents = mixture(config, tokenizer), mixture(encoded, tokenizer)
    shapes = set()
    for step in range(16):
        one, other = images.batch(step), latents.batch(step)
        shapes.add((other.image["latent_mean"].shape, other.text.get("latent_mean", np.zeros(0)).shape))
        assert one.image["image"].shape[1:3] == other.image["latent_mean"].shape[1:3]
        assert ("image" in one.text) == ("latent_mean" in other.text)
    assert len(shapes) >= 4


NAMES = ("images", "captions", "questions")


@pytest.mark.slow
def test_encode_data_from_the_command_line_on_one_device_and_on_eight(tmp_path, monkeypatch):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data")
    flags = ["--mode=encode-data", f"--config={tmp_path / 'config.py'}"]
    done = run(*flags, f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == (
        f'dict(name="images", format="array_record", root="{tmp_path / "out" / "images"}", files="*.array_record", ...)'
    )
    assert len(list((tmp_path / "out").rglob("*.array_record"))) == 3
    assert "needs --output=" in refused(*flags)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    done = run(*flags, f"--output={tmp_path / 'eight'}")
    assert done.returncode == 0, done.stderr
    config = resolve(small_config(tmp_path / "data"))
    one, eight = (
        [open_source(s) for s in from_encoded(config, {n: tmp_path / out / n for n in NAMES}).data.sources]
        for out in ("out", "eight")
    )
    for found, expected in zip(eight, one, strict=True):
        for index in range(RECORDS):
            assert found[index].record_id == expected[index].record_id
            for name, value in expected[index].arrays.items():  # one unit of bf16 apart, where a sum was near the edge
                np.testing.assert_allclose(
                    found[index].arrays[name].astype(np.float32), value.astype(np.float32), rtol=2.0**-7
                )


def test_an_output_that_cannot_be_written_is_refused_before_weights_are_read(setting, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cli_data, "init_weights", lambda *_: pytest.fail("weights are made before the refusal"))
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "file"))):
        cli_data.encode_data(setting[0], str(tmp_path / "file" / "out"), None, None)


def test_without_a_model_the_folder_that_training_begins_with_encodes(setting, tmp_path):
    config = dataclasses.replace(setting[0], init_from=str(tmp_path / "gone"))
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "gone"))):
        cli_data.encode_data(config, str(tmp_path / "out"), None, None)


@pytest.mark.parametrize("name", ["", ".", "..", "../escaped", "/absolute", "a/b", "a\0b", "x" * 256])
def test_a_source_whose_name_is_no_folders_is_refused(setting, tmp_path, name):
    config, *_ = setting
    source = dataclasses.replace(config.data.sources[0], name=name)
    data = dataclasses.replace(config.data, sources=(source, *config.data.sources[1:]))
    with pytest.raises(UserError, match="its name becomes a folder's; give a name without / that is one"):
        encode(setting, tmp_path / "encoded", dataclasses.replace(config, data=data))
    assert not list(tmp_path.iterdir())
