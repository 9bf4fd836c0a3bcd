"""Files that ``torch.save`` writes, without torch.

Since torch 1.6 they are zip archives, not compressed: ``NAME/data.pkl``, a pickle of what was saved, and
``NAME/data/KEY`` with the bytes of each storage. In the pickle a tensor is a call

    torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks)

and a storage a persistent id ("storage", torch.FloatStorage, KEY, device, count). The unpickler here knows these
names, ``OrderedDict`` and nothing else: what a pickle may carry besides is never imported, let alone run.
"""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dualdiff_jax.convert.tensor_file import TensorFile, TensorInfo
from dualdiff_jax.errors import UserError, reason

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
ZIP, LOCAL_HEADER = b"PK\x03\x04", struct.Struct("<26xHH")  # how a record begins: (length of its name, of what follows)
ALIGNMENT = 64  # of storages in the file, as torch has it


class Stored(NamedTuple):
    """Where a tensor lies in its file. ``offset`` and ``stride`` count numbers."""

    dtype: np.dtype
    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """Numbers from its first to its last."""
        return 0 if 0 in self.shape else 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))


class _CodeFound(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if module == "torch" and name in STORAGES:
            return name
        if (module, name) not in known:
            raise _CodeFound(f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> tuple[np.dtype, str]:
        _, kind, key, _, _ = pid
        return np.dtype(STORAGES[kind]), key

    @staticmethod
    def _tensor(storage: tuple[np.dtype, str], offset: int, shape: tuple, stride: tuple, *_) -> Stored:
        return Stored(*storage, offset, tuple(shape), tuple(stride))

    @staticmethod
    def _parameter(tensor: Stored, *_) -> Stored:
        return tensor


class TorchFile(TensorFile):
    """A dict of tensors, also one inside another such as {"model": ...}; or one tensor, which is then named ``""``.

    Files of before torch 1.6 are read whole, by torch itself.
    """

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            is_zip = file.read(4) == ZIP
        try:
            content = self._open() if is_zip else _load_old(path)
        except _CodeFound as error:
            raise UserError(
                f"{path}: carries more than tensors and was not opened, for it could run code ({reason(error)}); "
                "save the plain state dict in the program it comes from"
            ) from error
        except UserError:
            raise
        except Exception as error:  # of a damaged pickle or archive come many kinds
            raise UserError(f"{path}: cannot be read ({reason(error)}); it is damaged or no torch file") from error
        if isinstance(content, Stored | np.ndarray):
            content = {"": content}
        if not isinstance(content, dict):
            raise UserError(f"{path}: holds a {type(content).__name__}, expected a dict of tensors")
        while len(content) == 1 and isinstance(next(iter(content.values())), dict):
            content = next(iter(content.values()))
        for name, tensor in content.items():
            if not isinstance(tensor, Stored | np.ndarray):
                raise UserError(
                    f"{path}: {name} is a {type(tensor).__name__}, expected a tensor; save the plain state dict"
                )
        self._tensors: dict[str, Stored | np.ndarray] = content
        self._infos = {name: TensorInfo(tensor.shape, tensor.dtype) for name, tensor in content.items()}

    def _open(self) -> Any:
        """What the archive's pickle holds."""
        with zipfile.ZipFile(self.path) as archive:
            records = {record.filename.partition("/")[2]: record for record in archive.infolist()}
            if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
                raise UserError(f"{self.path}: was written on a big-endian machine; save it on another")
            with archive.open(records["data.pkl"]) as file:
                content = _Unpickler(file).load()
        self._records = records
        return content

    def read(self, key: str) -> np.ndarray:
        tensor = self._tensors[key]
        if isinstance(tensor, np.ndarray):
            return tensor
        numbers = self._numbers(tensor)
        if numbers is None:
            raise UserError(f"{self.path}: {key} does not lie in its storage; the file is damaged, copy it again")
        strides = [stride * tensor.dtype.itemsize for stride in tensor.stride]
        return np.asarray(np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides), order="C")

    def _numbers(self, tensor: Stored) -> np.ndarray | None:
        """From a tensor's first to its last; None where they are not all in its storage."""
        record, size = self._records.get(f"data/{tensor.key}"), tensor.dtype.itemsize
        is_within = record is not None and min(tensor.offset, *tensor.shape, *tensor.stride, 0) == 0
        if not is_within or record.compress_type or (tensor.offset + tensor.span) * size > record.file_size:
            return None
        with open(self.path, "rb") as file:
            file.seek(record.header_offset)
            name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            file.seek(name + extra + tensor.offset * size, os.SEEK_CUR)
            numbers = np.fromfile(file, tensor.dtype, count=tensor.span)
        return numbers if len(numbers) == tensor.span else None


def _load_old(path: Path) -> Any:
    """By torch, which runs nothing that the file carries either."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: is no file of torch 1.6 or newer; reading it needs PyTorch: pip install torch") from (
            error
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise (_CodeFound(str(error)) if "GLOBAL" in str(error) or "Unsupported" in str(error) else error) from error

    def as_arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: as_arrays(entry) for key, entry in value.items()}
        if not isinstance(value, torch.Tensor):
            return value
        kind = str(value.dtype).removeprefix("torch.")
        flat = value.detach().contiguous().flatten().view(torch.uint8).numpy()
        return flat.view(getattr(ml_dtypes, kind, None) or kind).reshape(tuple(value.shape))

    return as_arrays(content)


def save_tensor(array: np.ndarray, file: Path) -> None:
    """What ``torch.save`` writes for one tensor; ``torch.load`` gives it back."""
    kind = next(name for name, dtype in STORAGES.items() if np.dtype(dtype) == array.dtype)
    stride = [int(np.prod(array.shape[dim + 1 :])) for dim in range(array.ndim)]
    storage = _text("storage") + f"ctorch\n{kind}\n".encode() + _text("0") + _text("cpu") + _number(array.size)
    arguments = b"(" + storage + b"tQ" + _number(0) + _numbers(array.shape) + _numbers(stride)
    arguments += b"\x89" + b"ccollections\nOrderedDict\n)R"  # no gradient, no hooks
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{file.stem}/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR.")
        archive.writestr(f"{file.stem}/byteorder", "little")
        record = zipfile.ZipInfo(f"{file.stem}/data/0")
        begin = archive.fp.tell() + LOCAL_HEADER.size + len(record.filename) + 4
        padding = -begin % ALIGNMENT
        record.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
        archive.writestr(record, np.ascontiguousarray(array).tobytes())
        archive.writestr(f"{file.stem}/version", "3\n")


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _numbers(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"
