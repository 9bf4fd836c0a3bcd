"""The small files of a folder, which describe the large ones: each fault is one sentence that names the file."""

import json
from pathlib import Path

import pytest

from tests.unit.convert.refused import refusal

INDEX = "text_encoder/model.safetensors.index.json"
SHARD = "text_encoder/model-00002-of-00002.safetensors"


def test_an_index_that_names_a_missing_file(folder, tmp_path):
    (folder / SHARD).unlink()
    message = refusal(tmp_path, folder)
    assert INDEX in message and Path(SHARD).name in message


def test_a_shard_without_its_index(folder, tmp_path):
    (folder / INDEX).unlink()
    assert "no index of shards" in refusal(tmp_path, folder)


def test_an_index_that_does_not_fit_its_shards(folder, tmp_path):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["encoder.final_layer_norm.weight"] = "model-00001-of-00002.safetensors"
    index["weight_map"]["encoder.final_layer_norm.bias"] = "model-00001-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    message = refusal(tmp_path, folder)
    assert "final_layer_norm.bias: found in no shard" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_index.json", "[1]", "found [1], expected an object"),
        ("transformer/config.json", "{", "is no JSON"),
        ("transformer/config.json", '{"sample_size": "large"}', "sample_size: found 'large', expected a whole number"),
        ("transformer/config.json", '{"num_attention_heads": 0}', "num_attention_heads: found 0, expected at least 1"),
        ("transformer/config.json", '{"num_attention_heads": 5, "attention_head_dim": 64}', "contradict each other"),
        ("vae/config.json", '{"shift_factor": Infinity}', "has 'Infinity' in line 1"),
        ("vae/config.json", '{"scaling_factor": 1e400}', "has '1e400' in line 1"),
        ("model_index.json", '{"_class_name": 3}', "_class_name: found 3, expected a text"),
        ("model_index.json", '{"_class_name": "DualDiffSD3Pipeline", "vae": 3}', "vae: found 3, expected a list"),
        ("model_index.json", '{"_class_name": "DualDiffSD3Pipeline", "vae": "x"}', "vae: found 'x', expected a list"),
        ("sampling_settings.json", '{"sampling": 3}', "sampling: found 3, expected an object"),
        ("sampling_settings.json", '{"sampling": {"steps": 3}}', "sampling.steps: no such field"),
        ("scheduler/scheduler_config.json", '{"shift": "x"}', "sigma_shift: expected float, found 'x'"),
        ("tokenizer/tokenizer.json", "{", "is no JSON"),
        (INDEX, '{"weight_map": {"a": 3}}', "a: found 3, expected a text"),
        (INDEX, '{"weight_map": {"a": "../x.safetensors"}}', "expected the name of a file beside the index"),
        (INDEX, '{"weight_map": {"a": "' + "x" * 300 + '"}}', "expected the name of a file beside the index"),
        (INDEX, '{"weight_map": {"a\\ud83d": "x"}}', r"the name 'a\ud83d', expected at most 120 printable"),
        (INDEX, '{"weight_map": {"' + "a" * 100_000 + '": "x"}}', "expected at most 120 printable characters"),
        (INDEX, '{"weight_map": [1]}', "weight_map: found [1], expected an object"),
    ],
)
def test_a_small_file_that_is_damaged(folder, tmp_path, name, content, message):
    (folder / name).write_text(content)
    found = refusal(tmp_path, folder)
    assert message in found and str(folder) in found
    assert found.isascii() and len(found) < 1000


@pytest.mark.parametrize(
    "name",
    [
        *("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json", "sampling_settings.json"),
        *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "mask_token_emb.00-of-01.pth"),
    ],
)
def test_a_link_that_leads_nowhere_is_no_absent_file(folder, tmp_path, name):
    """A copy of links without what they lead to: without the file, the import would go on with other settings."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "gone")
    found = refusal(tmp_path, folder)
    assert name in found or Path(name).name in found and str(folder) in found
