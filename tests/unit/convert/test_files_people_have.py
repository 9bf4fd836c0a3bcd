"""Checkpoint files as other programs write them: scaled 8-bit weights, strays, LoRAs, several sets in one folder."""

import logging
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dualdiff_jax.convert.importer import Import, summary
from dualdiff_jax.convert.scaled import CleanTensors
from dualdiff_jax.convert.tensors import FileTensors, open_file, open_folder
from dualdiff_jax.errors import UserError
from tests import checkpoints
from tests.checkpoints import CONFIG

SCALED = "encoder.block.1.layer.0.SelfAttention.q"


@pytest.fixture(scope="module")
def t5() -> dict[str, np.ndarray]:
    return checkpoints.t5_tensors(checkpoints.random_networks(0)["t5"])


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    checkpoints.tokenizer(folder)
    return folder


def test_scaled_8_bit_weights_are_multiplied_and_strays_left_out(t5, words, tmp_path):
    small = (t5[f"{SCALED}.weight"] / np.float32(0.01)).astype(ml_dtypes.float8_e4m3fn)
    tensors = t5 | {
        f"{SCALED}.weight": small,
        f"{SCALED}.scale_weight": np.array(0.01, np.float32),
        "scaled_fp8": np.zeros(2, ml_dtypes.float8_e4m3fn),
        "logit_scale": np.ones((), np.float32),
        "spiece_model": np.zeros(9, np.uint8),
    }
    save_file(tensors, tmp_path / "t5.safetensors")
    planned = Import(tmp_path / "t5.safetensors", tokenizer=words)
    clean = planned.checkpoint.components["t5"].tensors
    found = clean.read(f"{SCALED}.weight")
    np.testing.assert_array_equal(found, small.astype(np.float32) * np.float32(0.01))
    assert found.dtype == np.float32 == clean[f"{SCALED}.weight"].dtype
    lines = "\n".join(summary(planned)["t5"])
    assert "1 weights are 8 bit with a scale" in lines and "logit_scale, scaled_fp8, spiece_model" in lines
    assert f"the last {CONFIG.t5.vocab_size - 33} rows of its embedding have no token" in lines


def test_a_scale_that_is_no_number_and_one_without_a_weight(tmp_path):
    save_file(
        {"a.weight": np.zeros((2, 2), np.float32), "a.scale_weight": np.ones(2, np.float32)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(UserError, match=r"a.scale_weight: found shape \(2,\), expected one number"):
        CleanTensors(FileTensors(tmp_path, [open_file(tmp_path / "a.safetensors")]))
    save_file({"b.scale_weight": np.ones(1, np.float32)}, tmp_path / "b.safetensors")
    assert list(CleanTensors(FileTensors(tmp_path, [open_file(tmp_path / "b.safetensors")]))) == ["b.scale_weight"]


@pytest.mark.parametrize(
    "key",
    ["lora_unet_blocks.lora_up.weight", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "x.lora.down"],
)
def test_a_lora_is_called_one(tmp_path, key):
    save_file({key: np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="this is a LoRA, which changes a model and is none"):
        Import(tmp_path / "a.safetensors")


@pytest.mark.parametrize("rows", [129, 250_112])
def test_an_embedding_with_far_more_rows_than_tokens_is_said(t5, words, tmp_path, caplog, rows):
    save_file(t5 | {"shared.weight": np.zeros((rows, CONFIG.t5.width), np.float32)}, tmp_path / "t5.safetensors")
    with caplog.at_level(logging.WARNING):
        Import(tmp_path / "t5.safetensors", tokenizer=words)
    assert f"its embedding has {rows} rows and the tokenizer" in caplog.text


def test_a_layer_out_of_all_proportion_is_refused(t5, words, tmp_path):
    save_file(t5 | {"encoder.block.1000000.x": np.zeros(1, np.float32)}, tmp_path / "t5.safetensors")
    with pytest.raises(UserError, match="no model has layer '1000000'"):
        Import(tmp_path / "t5.safetensors", tokenizer=words)


def test_a_width_that_sd3s_heads_do_not_divide_is_named(tmp_path):
    tensors = {key: torch.zeros(1) for key in ("text_proj_out.weight", "transformer_blocks.0.ff.net.0.proj.weight")}
    tensors |= {"context_embedder.weight": torch.zeros(32, 20), "pos_embed.pos_embed": torch.zeros(1, 4, 32)}
    torch.save(tensors | {"pos_embed.proj.weight": torch.zeros(32, 4, 2, 2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="width 32 is no multiple of 64, the width of SD3's heads"):
        Import(tmp_path / "x.pth")


FULL, HALF = np.zeros(3, np.float32), np.zeros(3, np.float16)


@pytest.mark.parametrize(
    ("full", "half", "expected"),
    [
        ("single", "shards", np.float32),
        ("index only", "shards", np.float16),
        ("index only", "single", np.float16),
        ("shards", "single", np.float32),
        ("shards", "shards", np.float32),
    ],
)
def test_a_complete_set_is_found(tmp_path, full, half, expected):
    for stem, kind, array in (("model", full, FULL), ("model.fp16", half, HALF)):
        if kind == "single":
            save_file({"a": array, "b": array}, tmp_path / f"{stem}.safetensors")
        else:
            checkpoints.write_shards(tmp_path, stem, {"a": array, "b": array})
        if kind == "index only":
            for file in tmp_path.glob("model-*-of-*.safetensors"):
                file.unlink()
    tensors = open_folder(tmp_path)
    assert sorted(tensors) == ["a", "b"] and tensors["a"].dtype == expected


def test_files_that_are_none_are_named(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="a.safetensors: is a pipe"):
        Import(tmp_path / "a.safetensors")
    with open(tmp_path / "b.safetensors", "wb") as file:
        file.truncate(60 << 30)
    with pytest.raises(UserError, match="b.safetensors: cannot be read"):
        Import(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(bytes(9))
    with pytest.raises(UserError, match="c.safetensors: cannot be read"):
        Import(tmp_path / "c.safetensors")
