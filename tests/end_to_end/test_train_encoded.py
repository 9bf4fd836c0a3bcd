"""Training from encoded data: the same losses as from the images, without T5 for the captions."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.mixture import Batch, Mixture
from dualdiff_jax.encoding.frozen_encoder import FrozenEncoder
from dualdiff_jax.encoding.writer import encode_sources
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import loop
from dualdiff_jax.training.encoded_data import check_encoded_data
from dualdiff_jax.training.loop import train
from dualdiff_jax.weights import save_model
from tests.small_run import objective_of, small_run
from tests.unit.data import photos
from tests.unit.tiny import random_weights

KL = {"kind": "kl", "channels": 4, "level_widths": [8, 8], "norm_groups": 4}
PARTS = ("autoencoder", "t5")


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """(config that trains from a model folder and images, its tokenizer, folder); half of the captions are dropped."""
    folder = tmp_path_factory.mktemp("train_encoded")
    config, tokenizer = small_run(
        folder / "data",
        objective={"caption_dropout": 0.5},
        model={"mmdit": {"depth": 1}},
        train={"steps": 3, "trainable": ("mmdit.*",)},
    )
    save_model(folder / "model", config.model, random_weights(config.model), tokenizer)
    return changed(config, init_from=str(folder / "model"), **{"train.log_every": 1}), tokenizer, folder


def changed(config: RunConfig, **values) -> RunConfig:
    """The config with some fields changed, by dotted name."""
    given = to_dict(config)
    for name, value in values.items():
        *path, last = name.split(".")
        section = given
        for part in path:
            section = section[part]
        section[last] = value
    return resolve(given)


def encode(config: RunConfig, tokenizer, output, seed=0) -> RunConfig:
    """Encodes every source; returns the same config over the encoded data."""
    encoder = FrozenEncoder(config.model, random_weights(config.model, seed), make_mesh(config.mesh, jax.devices()[:1]))
    made_by = {name: to_dict(getattr(config.model, name)) for name in PARTS}
    folders = encode_sources(config.data, encoder, tokenizer, output, made_by=made_by)
    sources = [
        to_dict(source) | {"format": "array_record", "root": str(folders[source.name]), "files": "*.array_record"}
        for source in config.data.sources
    ]
    return changed(config, **{"data.sources": sources})


@pytest.fixture(scope="module")
def encoded(setting) -> RunConfig:
    config, tokenizer, folder = setting
    return encode(config, tokenizer, folder / "encoded")


def first_batch(config: RunConfig, tokenizer) -> Batch:
    return Mixture(config.data, tokenizer, seed=0, global_batch_size=4).batch(0)


def losses(config: RunConfig, tokenizer, batch: Batch, read: list | None = None) -> dict[str, jax.Array]:
    """The losses of one step; ``read`` collects the shapes of the texts that T5 reads in it."""
    model = bind(config.model, random_weights(config.model))
    null_token_ids = jnp.asarray(tokenizer.null_ids(config.data.text_length))
    objective = objective_of(config, tokenizer, model.encode_text(null_token_ids[None])[0])
    corrupted = objective.corrupt_batch(jax.random.key(5), batch, model.autoencoder.encode)
    t5 = model.t5

    def note(token_ids):
        if read is not None:
            read.append(token_ids.shape)
        return t5(token_ids)

    object.__setattr__(model, "t5", note)
    return objective.loss(model, corrupted)[1]


QUICK_FORMS = ("tar", "drawn from a posterior")
OTHER_FORMS = [pytest.param(form, marks=pytest.mark.slow) for form in photos.WRITERS if form not in QUICK_FORMS]


@pytest.mark.parametrize("form", [*QUICK_FORMS, *OTHER_FORMS])
def test_every_format_once_encoded_gives_the_losses_of_its_images(setting, tmp_path, form):
    default, tokenizer, _ = setting
    if form not in photos.WRITERS:
        default, form = changed(default, init_from="", **{"model.autoencoder": KL}), "tar"
    name, write = photos.WRITERS[form]
    files = write(tmp_path)
    common = {"format": name, "root": str(tmp_path), "files": files, "height": 8, "width": 8}
    captions = {"caption_keys": photos.KEYS, "caption_weights": (0.5, 0.5)}
    sources = [
        {"name": "draw", "task": "image_generation", **common, **captions},
        {"name": "read", "task": "captioning", **common, **captions},
        {"name": "ask", "task": "instruction", **common},
    ]
    images = changed(default, **{"data.sources": sources, "data.text_length": 64})
    latents = encode(images, tokenizer, tmp_path / "encoded")
    one, other = first_batch(images, tokenizer), first_batch(latents, tokenizer)
    np.testing.assert_array_equal(one.image["token_ids"], other.image["token_ids"])
    expected, found = losses(images, tokenizer, one), losses(latents, tokenizer, other)
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) <= 2.0**-8 * np.linalg.norm(value), name


def test_t5_reads_no_caption_whose_embeddings_are_stored(setting, encoded):
    config, tokenizer, _ = setting
    length, read = config.data.text_length, []
    batch = first_batch(encoded, tokenizer)
    expected = losses(encoded, tokenizer, batch, read)
    assert read == [(4, length)]
    garbled = batch._replace(image=batch.image | {"token_ids": batch.image["token_ids"][::-1] * 0 + 3})
    jax.tree.map(np.testing.assert_array_equal, losses(encoded, tokenizer, garbled), expected)
    read.clear()
    losses(config, tokenizer, first_batch(config, tokenizer), read)
    assert read == [(8, length)]


def history(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_from_encoded_data_is_the_run_from_images(setting, encoded, tmp_path):
    """Equal to bf16 rounding over three steps, in which half of the captions are dropped."""
    config, *_ = setting
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    for name, each in (("images", config), ("encoded", encoded)):
        assert train(each, tmp_path / name, mesh) is not None
    for one, other in zip(history(tmp_path / "images"), history(tmp_path / "encoded"), strict=True):
        for name in ("loss", "image_loss", "text_loss"):
            assert abs(one[name] - other[name]) <= 2.0**-8 * abs(one[name]), (name, one[name], other[name])
        assert one["image_loss"] != other["image_loss"]  # the rounding shows that these are two runs


def test_a_run_whose_originals_changed_says_so_and_trains_from_what_is_encoded(setting, tmp_path, monkeypatch, caplog):
    config, tokenizer, _ = setting
    small_run(tmp_path / "data")
    sources = [to_dict(source) | {"root": str(tmp_path / "data")} for source in config.data.sources]
    stored = encode(changed(config, **{"data.sources": sources}), tokenizer, tmp_path / "encoded")
    started = []
    monkeypatch.setattr(loop, "_train", lambda *_: started.append("run"))
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    train(stored, tmp_path / "run", mesh)
    assert started == ["run"] and caplog.text == ""
    file = tmp_path / "data" / "questions.json"
    file.write_text(file.read_text().replace("three", "seven"))
    train(stored, tmp_path / "run", mesh)
    assert started == ["run", "run"] and caplog.text.count("WARNING") == 1
    assert f"questions: {file} changed since it was encoded; this run trains from the old data" in caplog.text


def refusal(config: RunConfig, workdir) -> str:
    with pytest.raises(UserError) as error:
        train(config, workdir, make_mesh(config.mesh, jax.devices()[:1]))
    return str(error.value)


def test_only_a_run_from_encoded_data_is_told_that_weights_are_compared_later(setting, encoded):
    assert check_encoded_data(setting[0], ()) == ""
    assert check_encoded_data(encoded, ()) == "sizes fit; weights are compared when the run starts"


def test_another_length_is_refused(encoded, tmp_path):
    message = refusal(changed(encoded, **{"data.text_length": 11}), tmp_path)
    assert "source 'images' has embeddings of captions at text_length 12, but data.text_length is 11" in message


def test_another_tokenizer_is_refused(setting, encoded, tmp_path):
    """It has as many tokens, but two of them have changed places."""
    config, tokenizer, folder = setting
    tokenizer.save(tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "tokenizer.json"
    given = json.loads(file.read_text())
    pieces = given["model"]["vocab"]
    pieces[5], pieces[6] = pieces[6], pieces[5]
    file.write_text(json.dumps(given))
    message = refusal(changed(encoded, **{"data.tokenizer": str(tmp_path / "tokenizer"), "init_from": ""}), tmp_path)
    assert "source 'images' was encoded with another tokenizer" in message


def test_another_t5_is_refused_by_its_sizes_and_by_its_weights(setting, encoded, tmp_path):
    config, tokenizer, folder = setting
    message = refusal(changed(encoded, **{"model.t5.depth": 2, "init_from": ""}), tmp_path / "sizes")
    assert "was encoded by another t5 than model.t5 (it -> config): depth 1 -> 2" in message
    weights = random_weights(config.model)
    weights["t5.blocks.mlp_out.kernel"] = weights["t5.blocks.mlp_out.kernel"][:, ::-1]
    save_model(tmp_path / "model", config.model, weights, tokenizer)
    message = refusal(changed(encoded, init_from=str(tmp_path / "model")), tmp_path / "weights")
    assert "was encoded with other weights of t5 than this run has" in message


def test_a_t5_that_is_trained_is_refused(encoded, tmp_path):
    message = refusal(changed(encoded, **{"train.trainable": ["mmdit.*", "t5.*"]}), tmp_path)
    assert "holds outputs of t5, but train.trainable has parts of t5; train from the images" in message


def test_a_stream_of_images_and_latents_is_refused(setting, encoded, tmp_path):
    config, *_ = setting
    sources = [*map(to_dict, (*encoded.data.sources, dataclasses.replace(config.data.sources[1], name="more")))]
    message = refusal(changed(encoded, **{"data.sources": sources}), tmp_path)
    assert (
        "the text stream would read latents (source 'questions') and images (source 'more') into one batch" in message
    )
