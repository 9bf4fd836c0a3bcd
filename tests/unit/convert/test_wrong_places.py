"""What stands in the place of a file or a folder: another network, a pointer, a link that leads nowhere."""

import re
import shutil

import pytest

from convert.__main__ import main
from dualdiff_jax.convert.lora_file import read_lora
from dualdiff_jax.errors import UserError
from tests.unit.convert.loras import draw, write
from tests.unit.convert.refused import refusal
from tests.unit.tiny import CONFIG

MMDIT = "transformer/diffusion_pytorch_model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665e2c1\nsize 4170000000\n"


@pytest.mark.parametrize(
    ("place", "other", "found", "lacks"),
    [
        ("transformer", "vae", "autoencoder", "mmdit"),
        ("vae", "text_encoder", "t5", "autoencoder"),
        ("text_encoder", "transformer", "mmdit", "t5"),
    ],
)
def test_a_folder_with_the_network_of_another_is_refused(folder, tmp_path, place, other, found, lacks):
    """The import would go on without the network that belongs there."""
    shutil.rmtree(folder / place)
    shutil.copytree(folder / other, folder / place)
    message = refusal(tmp_path, folder)
    assert f"{folder / place}: holds {found}, but no {lacks}, which belongs there; download this folder" in message


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.bin"])
def test_a_pointer_of_git_lfs_is_called_one(folder, tmp_path, name):
    (folder / MMDIT).unlink()
    (folder / "transformer" / name).write_text(POINTER)
    assert f"{name}: is a pointer of Git LFS and not the file itself; fetch that with git" in refusal(tmp_path, folder)


def test_a_lora_that_is_a_pointer_is_called_one(tmp_path):
    (tmp_path / "lora.safetensors").write_text(POINTER)
    with pytest.raises(UserError, match="lora.safetensors: is a pointer of Git LFS"):
        read_lora(tmp_path / "lora.safetensors", CONFIG)


def test_a_link_to_weights_that_were_not_copied_says_where_it_leads(folder, tmp_path):
    """As in a copy of the hub's cache without its blobs."""
    (folder / MMDIT).unlink()
    (folder / MMDIT).symlink_to("../../blobs/4665e2c1")
    expected = f"{folder / MMDIT}: is a link to ../../blobs/4665e2c1, which is not there; copy that too"
    assert expected in refusal(tmp_path, folder)
    assert expected in refusal(tmp_path, folder / MMDIT)
    (tmp_path / "lora.safetensors").symlink_to("gone")
    with pytest.raises(UserError, match="lora.safetensors: is a link to gone, which is not there; copy that too"):
        read_lora(tmp_path / "lora.safetensors", CONFIG)


def test_an_output_that_is_a_link_to_nothing_is_refused_before_a_tensor_is_read(folder, tmp_path, monkeypatch):
    (tmp_path / "model").symlink_to("gone")
    monkeypatch.setattr("dualdiff_jax.convert.plan.Plan.read", lambda *rest: pytest.fail("a tensor was read"))
    expected = "model: is a link to gone, which is not there; remove it, or choose another --output"
    for arguments in ((), ("--overwrite",)):
        with pytest.raises(SystemExit, match=re.escape(expected)):
            main(["import", str(folder), f"--output={tmp_path / 'model'}", *arguments])
    assert (tmp_path / "model").is_symlink()
    with pytest.raises(UserError, match="x.safetensors: is a link to gone"):
        (tmp_path / "x.safetensors").symlink_to("gone")
        write(tmp_path / "x.safetensors", draw())
