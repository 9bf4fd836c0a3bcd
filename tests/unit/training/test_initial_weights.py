"""What a run may start from: a folder of the same architecture and tokens, whatever else its config says."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig, RunConfig
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.stored_arrays import save_arrays
from dualdiff_jax.training.initial_weights import (
    check_init_from,
    init_from_fingerprint,
    initial_weights,
    random_and_frozen,
)
from dualdiff_jax.training.trainable import Trainable
from dualdiff_jax.weights import save_model
from tests.small_run import small_run

MESH = make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[RunConfig, Tokenizer]:
    """A run that starts from a model folder, and its tokenizer; no test writes to the folder."""
    root = tmp_path_factory.mktemp("initial")
    config, tokenizer = small_run(root)
    rng = np.random.default_rng(0)
    drawn = {
        name: jnp.asarray(rng.standard_normal(spec.shape), spec.dtype)
        for name, spec in sorted(leaf_specs(config.model).items())
    }
    save_model(root / "model", config.model, drawn, tokenizer)
    return dataclasses.replace(config, init_from=str(root / "model")), tokenizer


def changed(config: RunConfig, path: str, value: object) -> RunConfig:
    """The config with one field, named with dots, of another value."""
    sections = to_dict(config)
    *parents, name = path.split(".")
    section = sections
    for parent in parents:
        section = section[parent]
    assert section[name] != value
    section[name] = value
    return resolve(sections)


def test_a_model_folder_that_cannot_hold_arrays_is_refused_before_it_is_read(run):
    config, tokenizer = run
    with pytest.raises(UserError, match="s3://bucket/model: Orbax writes and reads arrays on disks and in gs://"):
        check_init_from(dataclasses.replace(config, init_from="s3://bucket/model"), tokenizer)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.attention", "xla"),
        ("model.compute_dtype", "bfloat16"),
        ("model.sampling.image_steps", 9),
        ("model.sampling.text_order", "ancestral"),
        ("train.steps", 9),
    ],
)
def test_a_start_may_differ_in_what_changes_no_weight(run, path, value):
    config, tokenizer = run
    check_init_from(changed(config, path, value), tokenizer)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.mmdit.mlp_ratio", 3),
        ("model.mmdit.position_base", 3),
        ("model.t5.relative_max_distance", 99),
        ("model.autoencoder.scale", 2.0),
    ],
)
def test_a_start_of_another_architecture_is_refused_with_the_field(run, path, value):
    config, tokenizer = run
    with pytest.raises(UserError, match=f"holds another model .*\n  {path}: .* -> {value}"):
        check_init_from(changed(config, path, value), tokenizer)


def test_a_start_with_other_tokens_is_refused(run, tmp_path):
    config, tokenizer = run
    shutil.copytree(tokenizer.folder, tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words[-1][0] = "another"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="was trained with other tokens"):
        check_init_from(config, Tokenizer(tmp_path / "tokenizer"))


def test_raw_weights_replace_the_averages_of_their_leaves(run, tmp_path):
    config, tokenizer = run
    shutil.copytree(config.init_from, tmp_path / "model")
    config = dataclasses.replace(config, init_from=str(tmp_path / "model"), init_weights="raw")
    with pytest.raises(UserError, match="holds averages only, no raw/"):
        check_init_from(config, tokenizer)
    name = "mmdit.text_out.kernel"
    save_arrays(tmp_path / "model" / "raw", {name: jnp.full(leaf_specs(config.model)[name].shape, 7.0)})
    check_init_from(config, tokenizer)
    averages = initial_weights(dataclasses.replace(config, init_weights="ema"), MESH)
    raw = initial_weights(config, MESH)
    assert raw.keys() == averages.keys()
    assert {leaf for leaf in raw if not np.array_equal(raw[leaf], averages[leaf])} == {name}
    assert (np.asarray(raw[name]) == 7.0).all()


def test_a_folder_whose_arrays_do_not_fit_is_refused_before_it_is_read(run, tmp_path):
    config, tokenizer = run
    shutil.copytree(config.init_from, tmp_path / "model")
    config = dataclasses.replace(config, init_from=str(tmp_path / "model"), init_weights="raw")
    kernel = "mmdit.text_out.kernel"
    for leaves, fault in (
        ({"mmdit.unknown.kernel": jnp.ones(3)}, "mmdit.unknown.kernel: has no place in this model"),
        ({kernel: jnp.ones((3, 2))}, rf"{kernel}: has shape \(3, 2\), expected"),
    ):
        shutil.rmtree(tmp_path / "model" / "raw", ignore_errors=True)
        save_arrays(tmp_path / "model" / "raw", leaves)
        with pytest.raises(UserError, match=f"model/raw: does not fit model.json:\n  {fault}"):
            check_init_from(config, tokenizer)
    shutil.rmtree(tmp_path / "model" / "weights")
    config = dataclasses.replace(config, init_weights="ema")
    with pytest.raises(UserError, match="model/weights: is missing; the model folder is incomplete, copy it anew"):
        check_init_from(config, tokenizer)
    save_arrays(tmp_path / "model" / "weights", {kernel: jnp.ones(leaf_specs(config.model)[kernel].shape)})
    with pytest.raises(UserError, match="model/weights: does not fit model.json:\n  .*: is missing"):
        check_init_from(config, tokenizer)


def test_the_fingerprint_follows_names_and_sizes(run, tmp_path):
    config, _ = run
    shutil.copytree(config.init_from, tmp_path / "model")
    copy = dataclasses.replace(config, init_from=str(tmp_path / "model"))
    before = init_from_fingerprint(copy)
    assert before == init_from_fingerprint(config) != init_from_fingerprint(dataclasses.replace(config, init_from=""))
    with (tmp_path / "model" / "model.json").open("a") as file:
        file.write("\n")
    longer = init_from_fingerprint(copy)
    (tmp_path / "model" / "model.json").rename(tmp_path / "model" / "other.json")
    assert len({before, longer, init_from_fingerprint(copy)}) == 3


@pytest.mark.parametrize(
    ("trainable", "kind", "expected"),
    [
        (("mmdit.*",), "identity", "t5: random weights"),
        (("mmdit.*", "t5.*"), "identity", ""),
        (("t5.embedding[mask]",), "identity", "mmdit: random weights"),
        (("mmdit.*",), "kl", "t5 and autoencoder: random weights"),
    ],
)
def test_networks_that_stay_random_are_known(run, trainable, kind, expected):
    config = changed(run[0], "init_from", "")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, trainable=trainable))
    autoencoder = dataclasses.replace(config.model.autoencoder, kind=kind, level_widths=(32,))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, autoencoder=autoencoder))
    found = random_and_frozen(config, Trainable(config).changed_leaves)
    assert found == (f"{expected} that this run does not train" if expected else "")
    assert random_and_frozen(dataclasses.replace(config, init_from="m"), Trainable(config).changed_leaves) == ""
