"""Export, import and export again: every file is equal, with the sampling's defaults and what pads prompts."""

import json
import shutil
from pathlib import Path

import pytest

from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.weights import load_config, load_tokenizer
from tests import checkpoints

SAMPLING = {"text_length": 20, "image_steps": 5, "caption_length": 30, "text_order": "confidence", "batch_size": 3}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def pad_with(folder: Path, token: str) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": token}))


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "d_dit"
    checkpoints.write_d_dit(folder, 0)
    return folder


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_every_file_comes_back(released, tmp_path, pad):
    source = shutil.copytree(released, tmp_path / "source")
    pad_with(source / "tokenizer", pad)
    settings = json.loads((source / "sampling_settings.json").read_text())
    settings["sampling"] |= SAMPLING
    (source / "sampling_settings.json").write_text(json.dumps(settings))
    first = Import(source).write(tmp_path / "first")
    assert load_tokenizer(first).pad_token == pad
    assert SAMPLING.items() <= vars(load_config(first).sampling).items()
    exported = contents(export_model(first, tmp_path / "exported"))
    assert json.loads(exported["tokenizer/tokenizer_config.json"])["pad_token"] == pad
    second = Import(tmp_path / "exported").write(tmp_path / "second")
    assert (second / "model.json").read_bytes() == (first / "model.json").read_bytes()
    again = contents(export_model(second, tmp_path / "again"))
    assert again.keys() == exported.keys()
    assert [name for name in again if again[name] != exported[name]] == []


def test_the_schedulers_shift_counts_as_in_the_original(released, tmp_path):
    source = shutil.copytree(released, tmp_path / "source")
    file = source / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shift": 2.5}))
    assert Import(source).config.sampling.sigma_shift == 2.5


@pytest.mark.parametrize("kind", ["StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"])
def test_folders_of_sd3_pad_with_the_end_whatever_their_tokenizer_names(released, tmp_path, kind):
    source = shutil.copytree(released, tmp_path / "source")
    index = json.loads((source / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
    assert Import(source).tokenizer.pad_token == "</s>"
