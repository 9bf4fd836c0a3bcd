"""Files of torch without torch: files that torch writes are read, and torch reads files that are written here."""

import collections
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from dualdiff_jax.convert import torch_file
from dualdiff_jax.convert.torch_file import TorchFile, save_tensor
from dualdiff_jax.errors import UserError

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def drawn(shape=(3, 4, 5)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


def saved(content, file) -> TorchFile:
    torch.save(content, file)
    return TorchFile(file)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_that_torch_writes_is_read(tmp_path, dtype):
    tensor = (3 * drawn()).to(getattr(torch, dtype))
    found = saved({"a": tensor, "b": tensor[0, 0]}, tmp_path / "x.pth")
    assert {name: info.shape for name, info in found.items()} == {"a": (3, 4, 5), "b": (5,)}
    for name, expected in (("a", tensor), ("b", tensor[0, 0])):
        array = found.read(name)
        assert str(array.dtype) == dtype == str(found[name].dtype) and array.flags.c_contiguous
        assert array.tobytes() == expected.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def test_views_parameters_scalars_and_empty_tensors(tmp_path):
    base = drawn().float()
    parameter = torch.nn.Parameter(base[1].T)
    content = {"turned": base.permute(2, 0, 1), "part": base[1:, ::2, 3], "scalar": base[0, 0, 0]}
    content |= {"spread": base[:1].expand(6, 4, 5), "none": base[:0], "parameter": parameter}
    found = saved(content, tmp_path / "x.pth")
    for name, expected in content.items():
        assert found[name].shape == tuple(expected.shape)
        np.testing.assert_array_equal(found.read(name), expected.detach().numpy())


def test_a_nested_dict_and_a_single_tensor(tmp_path):
    module = torch.nn.Linear(3, 2)
    found = saved({"model": module.state_dict()}, tmp_path / "x.pth")  # an OrderedDict with an attribute
    assert list(found) == ["weight", "bias"]
    np.testing.assert_array_equal(found.read("weight"), module.weight.detach().numpy())
    assert list(saved(drawn(), tmp_path / "y.pth")) == [""]


def test_a_file_from_before_torch_1_6_is_read_without_torch(tmp_path, monkeypatch):
    content = collections.OrderedDict(a=drawn().to(torch.bfloat16), b=drawn().float())
    torch.save(content, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = TorchFile(tmp_path / "x.bin")
    assert found.read("a").dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.read("a").astype(np.float32), content["a"].float().numpy())
    np.testing.assert_array_equal(found.read("b"), content["b"].numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4096,), (2, 3), ()])
def test_torch_reads_a_file_that_is_written_here(tmp_path, dtype, shape):
    tensor = (3 * drawn(shape)).to(getattr(torch, dtype))
    array = saved(tensor, tmp_path / "theirs.pth").read("")
    file = tmp_path / "mask_token_emb.00-of-01.pth"
    save_tensor(array, file)
    for is_mapped in (False, True):
        found = torch.load(file, weights_only=True, mmap=is_mapped)
        assert found.dtype == tensor.dtype and torch.equal(found, tensor)
    assert found.data_ptr() % torch_file.ALIGNMENT == 0
    assert TorchFile(file).read("").tobytes() == array.tobytes()


def rewritten(file, change) -> None:
    """Replaces each record's bytes by ``change(name, bytes)``; None removes the record."""
    with zipfile.ZipFile(file) as archive:
        records = {name: change(name.partition("/")[2], archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            if content is not None:
                archive.writestr(name, content)


DAMAGES = {
    "storage cut": lambda name, content: content[:-4] if name == "data/0" else content,
    "storage missing": lambda name, content: None if name == "data/0" else content,
    "pickle cut": lambda name, content: content[:-9] if name == "data.pkl" else content,
    "pickle missing": lambda name, content: None if name == "data.pkl" else content,
    "offset below zero": lambda name, content: content.replace(b"QK\x00", b"QJ\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(tmp_path, damage):
    file = tmp_path / "x.pth"
    torch.save({"a": drawn((5,))}, file)
    before = file.read_bytes()
    rewritten(file, DAMAGES[damage])
    assert file.read_bytes() != before
    with pytest.raises(UserError, match="damaged") as error:
        TorchFile(file).read("a")
    assert str(file) in str(error.value)


def test_a_file_cut_by_a_broken_download_is_refused(tmp_path):
    torch.save({"a": drawn()}, tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-100])
    with pytest.raises(UserError, match="it is damaged or no torch file"):
        TorchFile(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "torch.load", "torch.serialization.load"])
def test_only_names_of_tensors_are_looked_up(tmp_path, name):
    module, _, function = name.rpartition(".")
    call = f"c{module}\n{function}\n(X\x04\x00\x00\x00exittR.".encode()
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + call)
    with pytest.raises(UserError, match="could run code") as error:
        TorchFile(tmp_path / "x.pth")
    assert name in str(error.value)


def pickled(file, content: bytes, **records: bytes) -> TorchFile:
    """Opens an archive with the pickle ``content`` and further records."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in {"data.pkl": b"\x80\x02" + content, **records}.items():
            archive.writestr(f"x/{name}", value)
    return TorchFile(file)


HOSTILE = {
    "memo of 2^27": (b"]r\xff\xff\xff\x07.", "holds a list"),
    "a dict that holds itself": (b"}q\x00X\x01\x00\x00\x00ah\x00s.", "a is a dict, expected a tensor"),
    "a bytearray of 8 GB": (b"\x96\x00\x00\x00\x00\x02\x00\x00\x00.", "damaged"),
    "a number as a key": (b"}K\x03K\x04s.", "3 is a int, expected a tensor"),
    "a key that hashes for ever": (b"}" + b")" + b"q\x00h\x00\x86" * 60 + b"K\x01s.", "a key is a tuple"),
    "attributes of a function": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x08\x00\x00\x00__code__Nstb.",
        "holds a _Name|damaged",
    ),
    "a complex tensor": (b"ctorch\nComplexFloatStorage\n.", "dtype 'ComplexFloatStorage', which no release"),
    "a stack that is empty": (b"0.", "damaged"),
    "many marks": (b"(" * 1000 + b".", "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_at_once(tmp_path, name):
    content, message = HOSTILE[name]
    with pytest.raises(UserError, match=message) as error:
        pickled(tmp_path / "x.pth", content)
    assert str(error.value).startswith(f"{tmp_path / 'x.pth'}: ")


def test_a_record_that_is_compressed_is_refused_before_it_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/byteorder", b"little" + bytes(10_000_000))
    with pytest.raises(UserError, match="is compressed, which torch never does"):
        TorchFile(tmp_path / "x.pth")


def test_a_view_that_claims_more_than_the_file_has_is_refused(tmp_path):
    found = saved({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="'a' exceeds its storage"):
        found.read("a")


@pytest.mark.parametrize("is_zip", [True, False])
def test_8_bit_floats_are_read(tmp_path, is_zip):
    tensor = drawn((3, 4)).to(torch.float8_e4m3fn)
    torch.save({"a": tensor}, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    array = TorchFile(tmp_path / "x.pth").read("a")
    assert array.dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())


def test_equal_tensors_make_equal_files(tmp_path, monkeypatch):
    save_tensor(np.arange(3.0), tmp_path / "a.pth")
    first = (tmp_path / "a.pth").read_bytes()
    monkeypatch.setattr("time.localtime", lambda *_: (2040, 1, 2, 3, 4, 5, 6, 7, 0))
    save_tensor(np.arange(3.0), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == first
