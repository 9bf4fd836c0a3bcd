"""An import or export that is impossible ends with one message and leaves no file behind."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from convert.__main__ import main
from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.convert.tensors import open_file
from dualdiff_jax.errors import UserError
from tests import checkpoints
from tests.checkpoints import CONFIG
from tests.full_disk import full_disk
from tests.unit.convert.refused import refusal

ROOT = Path(__file__).parents[3]
MMDIT = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
INDEX = "text_encoder/model.safetensors.index.json"


def edit(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_a_truncated_file(folder, tmp_path):
    file = folder / MMDIT
    file.write_bytes(file.read_bytes()[:-1000])
    message = refusal(tmp_path, folder)
    assert str(file) in message and "truncated" in message and "download it again" in message


def test_a_file_of_another_kind(folder, tmp_path):
    (folder / MMDIT).write_bytes(b"<html>404</html>")
    assert "no safetensors file" in refusal(tmp_path, folder)


def test_a_renamed_a_transposed_and_a_cut_tensor_in_one_report(folder, tmp_path):
    def change(tensors):
        tensors["image_proj_out.wieght"] = tensors.pop("image_proj_out.weight")
        tensors["context_embedder.bias"] = tensors["context_embedder.bias"][:-1]
        key = "transformer_blocks.1.ff.net.2.weight"
        tensors[key] = np.ascontiguousarray(tensors[key].T)

    edit(folder / MMDIT, change)
    message = refusal(tmp_path, folder)
    assert "4 faults" in message
    lines = message.splitlines()
    width, mlp = CONFIG.mmdit.width, 4 * CONFIG.mmdit.width
    for wanted in (
        f"{MMDIT}: image_proj_out.wieght: found an unknown name; expected image_proj_out.weight?",
        "image_proj_out.weight: found nothing, expected shape",
        f"context_embedder.bias: found shape ({width - 1},), expected ({width},)",
        f"ff.net.2.weight: found shape ({mlp}, {width}), expected ({width}, {mlp})",
    ):
        assert any(wanted in line for line in lines), f"{wanted!r} is not in\n{message}"


def test_a_missing_key_that_determines_a_size(folder, tmp_path):
    edit(folder / VAE, lambda tensors: tensors.pop("decoder.conv_in.weight"))
    assert "decoder.conv_in.weight" in refusal(tmp_path, folder)


def test_a_config_that_contradicts_its_tensors(folder, tmp_path):
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_layers": 24}))
    assert "num_layers: 24 in config.json, 3 by the tensors" in refusal(tmp_path, folder)


def test_components_of_different_models(folder, tmp_path):
    for shard in (folder / "text_encoder").glob("*.safetensors"):
        shard.unlink()
    (folder / INDEX).unlink()
    rng = np.random.default_rng(0)
    t5 = {key: rng.standard_normal(np.multiply(shape, 1), np.float32) for key, shape in _wider_t5().items()}
    save_file(t5, folder / "text_encoder" / "model.safetensors")
    (folder / "text_encoder" / "config.json").unlink()
    assert "give networks of the same model" in refusal(tmp_path, folder)


def _wider_t5() -> dict[str, tuple[int, ...]]:
    """The shapes of a T5 whose width is twice the MMDiT's text width."""
    width = CONFIG.t5.width
    tensors = checkpoints.t5_tensors(checkpoints.random_networks(0)["t5"])
    return {key: tuple(2 * n if n == width else n for n in tensor.shape) for key, tensor in tensors.items()}


def test_non_finite_numbers_are_logged_and_kept(folder, tmp_path, capsys):
    def change(tensors):
        tensors["context_embedder.weight"][2, 3] = np.nan

    edit(folder / MMDIT, change)
    main(["import", str(folder), f"--output={tmp_path / 'model'}", "--components=mmdit"])
    logged = capsys.readouterr().err
    assert "context_embedder.weight holds numbers that are not finite" in logged
    assert logged.count("not finite") == 1


@pytest.mark.parametrize(
    "key, model",
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "the UNet of Stable Diffusion 1 or 2"),
        ("model.diffusion_model.label_emb.0.0.weight", "Stable Diffusion XL"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.3.x_block.attn.ln_q.weight", "Stable Diffusion 3.5"),
        ("transformer_blocks.3.attn.norm_added_q.weight", "Stable Diffusion 3.5"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn2.qkv.weight", "Stable Diffusion 3.5"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a CLIP text encoder"),
        ("encoder.block.0.layer.1.DenseReluDense.wi.weight", "T5 1.0"),
        ("something.else", "no network that is known"),
    ],
)
def test_files_of_other_models_are_named(tmp_path, key, model):
    source = tmp_path / "other.safetensors"
    save_file({key: np.zeros(3, np.float32)}, source)
    message = refusal(tmp_path, source)
    assert model in message and "expected SD3-medium, D-DiT" in message and str(source) in message


@pytest.mark.parametrize("kind", ["StableDiffusionXLPipeline", "FluxPipeline"])
def test_folders_of_other_models_are_named(folder, tmp_path, kind):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    assert f"is a {kind}, expected" in refusal(tmp_path, folder)


def test_sd35_by_its_config_alone(folder, tmp_path):
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"qk_norm": "rms_norm"}))
    assert "Stable Diffusion 3.5" in refusal(tmp_path, folder)


def test_an_autoencoder_with_quant_conv(folder, tmp_path):
    edit(folder / VAE, lambda tensors: tensors.update({"quant_conv.weight": np.zeros((8, 8, 1, 1), np.float32)}))
    assert "the autoencoder of Stable Diffusion 1, 2 or XL" in refusal(tmp_path, folder)


def test_a_component_that_is_not_there(folder, tmp_path):
    shutil.rmtree(folder / "vae")
    assert str(folder / "vae") in refusal(tmp_path, folder)
    assert "--components has 'clip'" in refusal(tmp_path, folder / "transformer", "--components=clip")
    assert "but no t5" in refusal(tmp_path, folder / "transformer", "--components=mmdit,t5")


def test_a_mask_embedding_of_another_width(folder, tmp_path):
    file = tmp_path / "mask.safetensors"
    save_file({"a": np.zeros(CONFIG.t5.width + 1, np.float32)}, file)
    message = refusal(tmp_path, folder, f"--mask-embedding={file}")
    assert str(file) in message and f"T5's width, {CONFIG.t5.width}" in message


@pytest.mark.parametrize("how", ["zip", "pickle"])
def test_a_torch_file_that_would_run_code_is_refused(folder, tmp_path, how):
    trap, file = tmp_path / "trap", tmp_path / "consolidated.00-of-01.pth"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    content = {"null_image_embd": torch.zeros(1, 8, 4), "extra": Trap()}
    if how == "zip":
        torch.save(content, file, pickle_module=_Cloud)
    else:
        file.write_bytes(_Cloud.dumps(content, protocol=2))
    message = refusal(tmp_path, file)
    assert not trap.exists()
    assert str(file) in message and "could run code" in message


class _Cloud:
    """pickle's interface, as torch.save wants it, for classes inside functions."""

    Pickler = pickle._Pickler
    dumps = staticmethod(lambda content, protocol: _by_reduce(content, protocol))


def _by_reduce(content, protocol) -> bytes:
    import io

    buffer = io.BytesIO()
    pickle._Pickler(buffer, protocol).dump(content)
    return buffer.getvalue()


def test_a_torch_file_that_holds_no_tensors(folder, tmp_path):
    file = tmp_path / "consolidated.00-of-01.pth"
    torch.save([1, 2], file)
    assert "holds a list, expected a dict of tensors" in refusal(tmp_path, file)
    torch.save({"step": 3, "lr": 0.1}, file)
    assert "step is a int, expected a tensor" in refusal(tmp_path, file)
    file.write_bytes(b"no torch file")
    assert "it is damaged or no torch file" in refusal(tmp_path, file) or "could run code" in refusal(tmp_path, file)


def test_two_files_in_a_folder(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("consolidated", "consolidated_ema"):
        torch.save({"a": torch.zeros(2)}, run / f"{name}.00-of-01.pth")
    assert "name one" in refusal(tmp_path, run)


def test_an_empty_path(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert refusal(tmp_path, folder, "--output=") == "error: output is empty; give a path, or leave it out"
    for words in (["inspect", ""], ["export", "", "--output=m"], ["lora", "inspect", "", "--model=m"]):
        with pytest.raises(SystemExit, match="^error: (source|model|lora) is empty; give a path"):
            main(words)


def test_another_checkpoint_that_lacks_what_is_taken_from_it(folder, tmp_path):
    message = refusal(tmp_path, folder, f"--autoencoder={folder / 'transformer'}")
    assert "transformer: holds mmdit, but no autoencoder, which --autoencoder needs" in message


def test_an_output_that_exists(folder, tmp_path):
    output = tmp_path / "model"
    output.mkdir()
    (output / "mine.txt").write_text("precious")
    message = refusal(tmp_path, folder / "vae")
    assert "--overwrite" in message and (output / "mine.txt").read_text() == "precious"
    message = refusal(tmp_path, folder / "vae", "--overwrite")
    assert "holds other files, which would be removed" in message and (output / "mine.txt").read_text() == "precious"
    (output / "mine.txt").unlink()
    main(["import", str(folder / "vae"), f"--output={output}", "--overwrite"])
    main(["import", str(folder / "vae"), f"--output={output}", "--overwrite"])
    assert (output / "model.json").is_file()


def test_an_export_over_what_exists(folder, tmp_path):
    main(["import", str(folder), f"--output={tmp_path / 'model'}"])
    with pytest.raises(SystemExit, match="--overwrite"):
        main(["export", str(tmp_path / "model"), f"--output={folder}"])
    main(["export", str(tmp_path / "model"), f"--output={folder}", "--overwrite"])
    assert (folder / "mask_token_emb.00-of-01.pth").is_file()


def test_no_space_on_the_disk(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    message = refusal(tmp_path, folder)
    assert " MB and the disk has 0.001 MB left; make room" in message and "needs 0.0" not in message


@pytest.mark.parametrize("mode", ["import", "export"])
def test_a_disk_that_fills_up_on_the_way(folder, tmp_path, mode):
    """The check finds enough room, then writing fails with the real errors of the libraries."""
    planned, output = Import(folder), tmp_path / "out"
    model = planned.write(tmp_path / "model")
    before = sorted(tmp_path.iterdir())
    with full_disk() as fill, pytest.raises(UserError, match=f"{output}: the disk is full; make room"):
        fill(True)
        planned.write(output) if mode == "import" else export_model(model, output)
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_ends_with_one_line_and_code_1(folder, tmp_path):
    """In a process of its own, as a user starts it."""
    (folder / MMDIT).write_bytes(b"")
    command = [sys.executable, "-m", "convert", "import", str(folder), f"--output={tmp_path / 'model'}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr.startswith(f"error: {folder / MMDIT}") and len(process.stderr.splitlines()) == 1
    assert not (tmp_path / "model").exists()


def test_a_model_folder_is_not_imported(folder, tmp_path):
    main(["import", str(folder / "vae"), f"--output={tmp_path / 'ours'}"])
    assert "is a model folder already" in refusal(tmp_path, tmp_path / "ours")


def test_export_of_another_folder(tmp_path):
    with pytest.raises(SystemExit, match="is no model folder"):
        main(["export", str(tmp_path), f"--output={tmp_path / 'out'}"])


def test_export_of_an_incomplete_model(folder, tmp_path):
    main(["import", str(folder / "vae"), f"--output={tmp_path / 'model'}"])
    with pytest.raises(SystemExit, match="holds no mmdit and no t5"):
        main(["export", str(tmp_path / "model"), f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_a_suffix_that_is_unknown(tmp_path):
    (tmp_path / "weights.gguf").write_bytes(b"x")
    with pytest.raises(UserError, match="is no file of tensors"):
        open_file(tmp_path / "weights.gguf")
