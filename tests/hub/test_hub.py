"""Models travel to a hub and back: bit-equal, whole or not at all, and each refusal is one sentence."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import constants

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.hub import download, is_hub_name, upload
from dualdiff_jax.hub.card import model_card
from dualdiff_jax.weights import load_config
from tests import checkpoints
from tests.hub.server import Hub, serving

ROOT = Path(__file__).parents[2]
NAME = "org/tiny"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("model")
    checkpoints.write_d_dit(root / "released", 0)
    Import(root / "released").write(root / "model")
    export_model(root / "model", root / "exported")
    return root / "model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, which this process takes for the only one, and an empty cache."""
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.chdir(tmp_path)
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def publish(hub: Hub, folder: Path) -> None:
    hub.commit(NAME, contents(folder))


def test_a_model_that_was_pushed_comes_back_bit_equal_with_a_card(hub, model, tmp_path):
    (tmp_path / "drawn | <b>.png").write_bytes(b"picture")
    (tmp_path / "scores").mkdir()
    result = {
        "task": "vqav2",
        "score": 0.5,
        "standard_error": 0.01,
        "questions": {"asked": 100},
        "settings": {"steps": 8},
    }
    (tmp_path / "scores" / "vqav2.json").write_text(json.dumps(result))
    (tmp_path / "scores" / "coco_captions.submission.json").write_text("[]")
    pipe = DualDiffusionPipeline.from_pretrained(model)
    commit = pipe.push_to_hub(
        NAME, token=hub.token, licence="mit", scores=tmp_path / "scores", samples=[tmp_path / "drawn | <b>.png"]
    )
    assert commit == hub.branches[NAME]["main"]
    card = hub.head(NAME)["README.md"].decode()
    for part in (
        "license: mit",
        f'from_pretrained("{NAME}")',
        "| vqav2 | 0.5 ± 0.01 | 100 |",
        "samples/00.png",
        f"depth {pipe.config.mmdit.depth},",
    ):
        assert part in card, part
    again = DualDiffusionPipeline.from_pretrained(NAME)
    assert again.config == pipe.config
    jax.tree.map(np.testing.assert_array_equal, again.weights, pipe.weights)
    assert again.tokenizer.fingerprint() == pipe.tokenizer.fingerprint()


def test_a_result_without_a_score_is_left_out(model, tmp_path):
    for task, score in (("coco30k", None), ("mme", True), ("vqav2", 0.5)):
        result = {"task": task, "score": score, "standard_error": "unknown", "count": 7, "settings": {}}
        (tmp_path / f"{task}.json").write_text(json.dumps(result))
    card = model_card(model, NAME, "mit", scores=tmp_path)
    assert "| vqav2 | 0.5 | 7 |" in card and "coco30k" not in card and "mme" not in card
    (tmp_path / "vqav2.json").unlink()
    with pytest.raises(UserError, match="has no results"):
        model_card(model, NAME, "mit", scores=tmp_path)


def test_what_is_saved_is_what_was_loaded(model, tmp_path):
    pipe = DualDiffusionPipeline.from_pretrained(model)
    pipe.save_pretrained(tmp_path / "saved")
    again = DualDiffusionPipeline.from_pretrained(tmp_path / "saved")
    jax.tree.map(np.testing.assert_array_equal, again.weights, pipe.weights)
    in_8_bits = DualDiffusionPipeline.from_pretrained(model, t5_bits=8)
    with pytest.raises(UserError, match="is in 8 bits; load the model without t5_bits"):
        in_8_bits.save_pretrained(tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_card_of_a_run_has_its_settings_and_escapes_them(model, hub, tmp_path):
    run = {
        "seed": 11,
        "train": {"steps": 7},
        "data": {"sources": [{"name": "a|<b>", "format": "tar", "task": "captioning"}]},
    }
    folder = tmp_path / "run" / "model"
    folder.parent.mkdir()
    folder.symlink_to(model)
    (tmp_path / "run" / "config.json").write_text(json.dumps(run))
    upload(folder, NAME, token=hub.token)
    card = hub.head(NAME)["README.md"].decode()
    assert "| steps | 7 |" in card and "| seed | 11 |" in card
    assert r"| source a\|&lt;b&gt; | tar, captioning |" in card and "<b>" not in card


@pytest.mark.parametrize("clip", [False, True])
def test_a_diffusers_folder_is_read_without_what_the_model_does_not_use(hub, model, clip):
    files = contents(model.parent / "exported")
    if clip:  # as SD3 is published: T5 is the third text encoder
        files = {
            name.replace("text_encoder/", "text_encoder_3/").replace("tokenizer/", "tokenizer_3/"): content
            for name, content in files.items()
        }
        index = json.loads(files["model_index.json"])
        index["text_encoder_3"], index["tokenizer_3"] = index["text_encoder"], index["tokenizer"]
        files |= {"model_index.json": json.dumps(index).encode(), "text_encoder/model.safetensors": b"clip"}
    files |= {"transformer/x.fp16.safetensors": b"variant", "image.png": b"png", "vae/weights.bin": b"pickle"}
    hub.commit(NAME, files)
    found = {file for file in contents(download(NAME))}
    assert found == set(files) - {"transformer/x.fp16.safetensors", "image.png", "vae/weights.bin"} - (
        {"text_encoder/model.safetensors"} if clip else set()
    )
    expected = DualDiffusionPipeline.from_pretrained(model).weights
    jax.tree.map(np.testing.assert_array_equal, DualDiffusionPipeline.from_pretrained(NAME).weights, expected)


def test_an_interrupted_download_is_never_loaded_and_goes_on_where_it_stopped(hub, model, monkeypatch):
    publish(hub, model)
    largest = max(hub.head(NAME), key=lambda name: len(hub.head(NAME)[name]))
    hub.cut_after = 2000
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=f"^{NAME}: is no folder here, and the hub cannot be reached"):
        download(NAME)
    hub.cut_after = None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set.*has not been downloaded before"):
        download(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.asked.clear()
    folder = download(NAME)
    assert {name: data for name, data in contents(folder).items()} == hub.head(NAME)
    assert [line for line in hub.asked if line.startswith("GET") and "resolve" in line][-1].endswith("model.json")
    assert largest in contents(folder)


def test_without_the_network_a_copy_is_used_and_its_absence_is_told(hub, model, monkeypatch, caplog):
    publish(hub, model)
    folder = download(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.WARNING):
        assert download(NAME) == folder
    assert "the copy in" in caplog.text
    with pytest.raises(UserError, match="^org/other: .*has not been downloaded before$"):
        download("org/other")


def test_revisions(hub, model):
    publish(hub, model)
    old = hub.branches[NAME]["main"]
    hub.branches[NAME]["v1"] = old
    hub.commit(NAME, {"model.json": b"{}"})
    assert download(NAME, revision="v1") == download(NAME, revision=old)
    assert load_config(download(NAME, revision="v1")) == load_config(model)
    with pytest.raises(UserError, match="^org/tiny: has no revision 'v2'; name a branch"):
        download(NAME, revision="v2")
    with pytest.raises(UserError, match="is no model on the hub, which alone has revisions"):
        DualDiffusionPipeline.from_pretrained(model, revision="v1")


def test_refusals_are_one_sentence_each(hub, model):
    publish(hub, model)
    with pytest.raises(UserError, match="^no/such: there is no such folder here and no such model on the hub"):
        download("no/such")
    hub.gated.add(NAME)
    with pytest.raises(UserError, match="^org/tiny: is gated; accept its conditions .* give token"):
        download(NAME)
    with pytest.raises(UserError, match=r"^org/tiny: the hub refuses this token \(401\)"):
        download(NAME, token="hf_wrong")
    assert download(NAME, token=hub.token).is_dir()
    hub.gated.clear()
    hub.private.add(NAME)
    with pytest.raises(UserError, match="or it is private"):
        download(NAME)
    for refused in ("hf_wrong", None):
        with pytest.raises(UserError, match=r"refuses this token \(401\)"):
            upload(model, NAME, token=refused)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"README.md": b""}, "has neither model.json nor model_index.json"),
        (
            {"model_index.json": b"{}", "transformer/model.bin": b"", "vae/a.safetensors": b""},
            r"has only pickled weights \(transformer/model.bin\)",
        ),
    ],
)
def test_a_repository_of_another_kind_is_refused_before_anything_is_downloaded(hub, files, sentence):
    hub.commit(NAME, files)
    with pytest.raises(UserError, match=f"^{NAME}: {sentence}"):
        download(NAME)
    assert not any("resolve" in line for line in hub.asked)


def test_faulty_uploads_are_refused_before_anything_is_sent(hub, model, tmp_path):
    for arguments, sentence in (
        ((tmp_path, NAME), "is no model folder"),
        ((model, "no name"), "is no name of a model on the hub"),
        ((model, NAME, {"samples": [tmp_path / "none.png"]}), "none.png: there is no such file"),
        ((model, NAME, {"scores": tmp_path}), "has no results of --mode=evaluate"),
        (("gs://bucket/model", NAME), "is uploaded from a disk alone"),
    ):
        *places, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
        with pytest.raises(UserError, match=sentence):
            upload(*places, token=hub.token, **options)
    assert hub.asked == []


def test_what_is_here_is_never_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("org/tiny")
    (tmp_path / "org").mkdir()
    assert not is_hub_name("org/tiny")  # a misspelt folder, rather
    assert not any(map(is_hub_name, ("org/tiny", "gs://bucket/x", "a", "a/b/c", "/a/b", "../a", "./a", "a b/c")))


def test_the_command_line_takes_the_name_of_a_model(hub, model, tmp_path):
    publish(hub, model)
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
    words = [
        "main.py",
        "--mode=generate",
        f"--model={NAME}",
        "--prompt=a handwritten three",
        f"--output={tmp_path / 'out'}",
        "--steps=1",
    ]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "0000.png").exists()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"train": None}, "config.json: train: found None, expected an object"),
        ({"data": {"sources": "all"}}, "config.json: data.sources: found 'all', expected a list"),
        ({"data": {"sources": ["all"]}}, "config.json: a source: found 'all', expected an object"),
    ],
)
def test_a_run_whose_config_was_damaged_has_no_card(model, tmp_path, run, message):
    folder = tmp_path / "model"
    folder.symlink_to(model)
    (tmp_path / "config.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=message):
        model_card(folder, NAME, "mit")
