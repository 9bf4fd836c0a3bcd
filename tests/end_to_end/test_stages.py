"""Every stage runs as its config says, and each starts from the model folder of the one before."""

import importlib
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig, RunConfig
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import EMBEDDING
from dualdiff_jax.models.separated import stacked_weights
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train
from dualdiff_jax.training.trainable import Trainable, mask_row
from dualdiff_jax.weights import load_model, save_model
from tests.small_run import write_data

STAGES = ("align_mask_embedding", "dual_diff_pretrain_256", "dual_diff_pretrain", "dual_diff_sft", "finetune_t2i")
STEPS = 3
MESH = make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("stages") / "data"
    write_data(root)
    (root / "captions.json").rename(root / "digits.json")
    return root


def stage(name: str, data: Path, init_from: Path | str = "", **fields) -> RunConfig:
    """The tiny config of a stage on ``data``, with fewer steps and an even smaller model."""
    config = importlib.import_module(f"configs.tiny.{name}").get_config()
    config.model.mmdit.update(width=16)
    config.model.t5.update(width=8, depth=1, head_dim=4, mlp_width=16)
    config.data.tokenizer = str(data / "tokenizer")
    config.data.sources = [{**source, "root": str(data)} for source in config.to_dict()["data"]["sources"]]
    config.optimizer.warmup_steps = 0
    config.train.update(steps=STEPS, global_batch_size=4, log_every=1)
    config.init_from = str(init_from)
    return changed_by(fields, resolve(config))


def changed_by(change: dict, config: RunConfig) -> RunConfig:
    """The config with some fields changed, at any depth."""

    def merge(into: dict, more: dict) -> dict:
        return into | {k: merge(into[k], v) if isinstance(v, dict) else v for k, v in more.items()}

    return resolve(merge(to_dict(config), change))


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in load_model(folder, MESH)[1].items()}


@pytest.fixture(scope="module")
def start(data, tmp_path_factory) -> Path:
    """A model folder in which no leaf is zero, as after some training."""
    config = stage("dual_diff_pretrain", data)
    rng = np.random.default_rng(0)
    drawn = {
        name: jax.numpy.asarray(0.3 * rng.standard_normal(spec.shape), spec.dtype)
        for name, spec in sorted(leaf_specs(config.model).items())
    }
    folder = tmp_path_factory.mktemp("start") / "model"
    save_model(folder, config.model, drawn, Tokenizer(data / "tokenizer"))
    return folder


@pytest.fixture(scope="module")
def chain(data, start, tmp_path_factory) -> dict[str, Path]:
    """Stage -> its model folder; each starts from the one before, the first from ``start``."""
    root, folders = tmp_path_factory.mktemp("chain"), {"start": start}
    for name in STAGES:
        config = stage(name, data, init_from=list(folders.values())[-1])
        folders[name] = train(config, root / name, MESH)
    return folders


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_changes_the_leaves_that_it_trains_and_no_others(chain, data, name):
    names = list(chain)
    before, after = (weights(chain[one]) for one in (names[names.index(name) - 1], name))
    allowed = set(Trainable(stage(name, data)).changed_leaves)
    changed = {leaf for leaf in before if not np.array_equal(before[leaf], after[leaf])}
    assert changed <= allowed
    if name == "align_mask_embedding":
        rows = np.flatnonzero((before[EMBEDDING] != after[EMBEDDING]).any(axis=1))
        assert changed == {EMBEDDING} and rows.tolist() == [mask_row(stage(name, data).model)]
    else:
        assert {"mmdit.blocks.image.qkv.kernel", "mmdit.blocks.text.mlp_out.kernel"} <= changed
        assert ("mmdit.text_out.kernel" in changed) == (name != "finetune_t2i")
        assert "mmdit.image_out.kernel" in changed


def test_the_chain_ends_in_a_model_that_answers_and_draws(chain, data):
    pipeline = DualDiffusionPipeline.from_pretrained(chain["dual_diff_sft"])
    answers = pipeline.answer([data / "images/0.png"] * 2, ["which digit is this?"] * 2)
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
    assert pipeline.config.sampling.text_length == 12
    assert pipeline.text_to_image(["a handwritten three"])[0].size == (8, 8)


def test_the_settings_of_the_stages_are_the_recipe(data):
    found = {name: stage(name, data) for name in STAGES}
    assert found["align_mask_embedding"].train.trainable == ("t5.embedding[mask]",)
    assert {name: (c.objective.image_weight, c.objective.text_weight) for name, c in found.items()} == {
        "align_mask_embedding": (0.0, 1.0),
        "dual_diff_pretrain_256": (1.0, 0.2),
        "dual_diff_pretrain": (1.0, 0.2),
        "dual_diff_sft": (1.0, 1.0),
        "finetune_t2i": (1.0, 0.0),
    }
    sft = importlib.import_module("configs.dual_diff_sft").get_config()
    assert sft.data.text_length == 128 and sft.train.global_batch_size == 512
    tasks = [source["task"] for source in sft.to_dict()["data"]["sources"]]
    assert "instruction" in tasks and "image_generation" in tasks


def test_a_run_starts_from_averages_or_from_raw_weights(chain, data, tmp_path):
    """With a learning rate of 0, a run ends with the weights from which it started."""
    folder = chain["dual_diff_pretrain"]
    still = {"optimizer": {"learning_rate": 0.0, "warmup_steps": 0}}
    ends = {}
    for which in ("ema", "raw"):
        config = stage("dual_diff_pretrain", data, folder, init_weights=which, **still)
        ends[which] = weights(train(config, tmp_path / which, MESH))
    exported = weights(folder)
    for name, value in exported.items():
        np.testing.assert_allclose(ends["ema"][name], value, rtol=1e-6, atol=1e-7)
    moved = [name for name in exported if not np.allclose(ends["raw"][name], exported[name], rtol=1e-6, atol=1e-7)]
    assert "mmdit.blocks.image.qkv.kernel" in moved and all(name.startswith("mmdit.") for name in moved)


def test_factors_are_merged_into_the_folder(chain, data, tmp_path):
    """The folder has the leaves of any other model; only the targets differ, by a matrix of the factors' rank."""
    lora = {"rank": 2, "targets": ["mmdit.blocks.*.qkv.kernel"]}
    config = stage(
        "dual_diff_pretrain",
        data,
        chain["dual_diff_pretrain"],
        lora=lora,
        train={"trainable": ()},
    )
    before, after = weights(chain["dual_diff_pretrain"]), weights(train(config, tmp_path / "run", MESH))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {f"mmdit.blocks.{stream}.qkv.kernel" for stream in ("image", "text")}
    change = (after["mmdit.blocks.image.qkv.kernel"] - before["mmdit.blocks.image.qkv.kernel"])[0].reshape(16, -1)
    assert np.linalg.matrix_rank(change, tol=1e-4 * np.linalg.norm(change)) == 2
    check_the_factors_alone(config, tmp_path / "run", chain["dual_diff_pretrain"], after)


def check_the_factors_alone(config: RunConfig, workdir: Path, base: Path, merged: dict[str, np.ndarray]) -> None:
    """The factors are what was merged; the finished run writes them again, and nothing else if told so."""
    for folder in (workdir / "lora", workdir / "model"):
        shutil.rmtree(folder)
    assert train(changed_by({"lora": {"merge": False}}, config), workdir, MESH) == workdir / "lora"
    assert [path.name for path in (workdir / "lora").iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert not (workdir / "model").exists()
    pipeline = DualDiffusionPipeline.from_pretrained(base)
    assert pipeline.load_lora(workdir / "lora") == "lora"
    for name, value in stacked_weights(pipeline.config, pipeline.weights).items():
        np.testing.assert_allclose(value, merged[name], rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_from": "nowhere"}, "nowhere: is no model folder"),
        ({"model": {"mmdit": {"width": 24}}}, "model.mmdit.width: 16 -> 24"),
        ({"init_weights": "raw"}, "holds averages only, no raw/"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_anything_is_written(start, data, tmp_path, change, message):
    config = changed_by(change, stage("dual_diff_pretrain", data, start))
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run", MESH)
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_replaced_is_refused(chain, data, tmp_path):
    config = stage("dual_diff_pretrain", data, tmp_path / "start")
    tokenizer = Tokenizer(data / "tokenizer")
    _, found, _ = load_model(chain["dual_diff_pretrain"], MESH)
    save_model(tmp_path / "start", config.model, found, tokenizer)
    train(config, tmp_path / "run", MESH)
    save_model(tmp_path / "start", config.model, found, tokenizer)
    with pytest.raises(UserError, match="is not the model folder that this run started from"):
        train(config, tmp_path / "run", MESH)
