"""Reads and writes files of ``torch.save`` without torch.

Since torch 1.6 they are uncompressed zip archives: ``NAME/data.pkl`` is a pickle of the saved object, and
``NAME/data/KEY`` holds the bytes of each storage. In the pickle a tensor is a call

    torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks)

and a storage is a persistent id ("storage", torch.FloatStorage, KEY, device, count). The unpickler here accepts these
names and ``OrderedDict`` only; it refuses a pickle that names anything else before it imports or runs it.
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
ZIP_SIGNATURE = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<26xHH")  # start of a zip record: (length of its name, length of its extra field)
ALIGNMENT = 64  # bytes; of storages in the file, as torch aligns them


class StorageView(NamedTuple):
    """A tensor as a view of a storage in the file. ``offset`` and ``stride`` count numbers, not bytes."""

    dtype: np.dtype
    key: str  # of the storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """How many numbers lie from the first to the last, both included."""
        return 0 if 0 in self.shape else 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))


class _CodeFound(Exception):
    """A pickle names something other than tensors; the message is that name."""


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
    def _tensor(storage: tuple[np.dtype, str], offset: int, shape: tuple, stride: tuple, *_) -> StorageView:
        return StorageView(*storage, offset, tuple(shape), tuple(stride))

    @staticmethod
    def _parameter(tensor: StorageView, *_) -> StorageView:
        return tensor


class TorchFile(TensorFile):
    """A file that holds a dict of tensors, directly or as the only entry of a dict such as {"model": ...}.

    A file that holds a single tensor gives it the key ``""``. torch itself reads the whole of a file from before
    torch 1.6.

    Args:
        path: the file.

    Raises:
        UserError: the file is damaged, or holds anything else than tensors.
    """

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            is_zip = file.read(4) == ZIP_SIGNATURE
        try:
            content = self._open() if is_zip else _load_old(path)
        except _CodeFound as error:
            raise UserError(
                f"{path}: holds more than tensors and was not opened, because it could run code ({reason(error)}); "
                "save the plain state dict in the program that wrote the file"
            ) from error
        except UserError:
            raise
        except Exception as error:  # a damaged pickle or archive raises many types
            raise UserError(f"{path}: cannot be read ({reason(error)}); it is damaged or no torch file") from error
        if isinstance(content, StorageView | np.ndarray):
            content = {"": content}
        if not isinstance(content, dict):
            raise UserError(f"{path}: holds a {type(content).__name__}, expected a dict of tensors")
        while len(content) == 1 and isinstance(next(iter(content.values())), dict):
            content = next(iter(content.values()))
        for name, tensor in content.items():
            if not isinstance(tensor, StorageView | np.ndarray):
                raise UserError(
                    f"{path}: {name} is a {type(tensor).__name__}, expected a tensor; save the plain state dict"
                )
        self._tensors: dict[str, StorageView | np.ndarray] = content
        self._infos = {name: TensorInfo(tensor.shape, tensor.dtype) for name, tensor in content.items()}

    def _open(self) -> Any:
        """The object in the archive's pickle, with a ``StorageView`` for each tensor."""
        with zipfile.ZipFile(self.path) as archive:
            records = {record.filename.partition("/")[2]: record for record in archive.infolist()}
            if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
                raise UserError(f"{self.path}: was written on a big-endian machine; save it on a little-endian one")
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
            raise UserError(f"{self.path}: {key} exceeds its storage; the file is damaged, copy it again")
        strides = [stride * tensor.dtype.itemsize for stride in tensor.stride]
        return np.asarray(np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides), order="C")

    def _numbers(self, tensor: StorageView) -> np.ndarray | None:
        """The numbers from a tensor's first to its last; None where its storage does not hold all of them."""
        record, size = self._records.get(f"data/{tensor.key}"), tensor.dtype.itemsize
        if record is None or record.compress_type or min(tensor.offset, *tensor.shape, *tensor.stride, 0) < 0:
            return None
        if (tensor.offset + tensor.span) * size > record.file_size:
            return None
        with open(self.path, "rb") as file:
            file.seek(record.header_offset)
            name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            file.seek(name + extra + tensor.offset * size, os.SEEK_CUR)
            numbers = np.fromfile(file, tensor.dtype, count=tensor.span)
        return numbers if len(numbers) == tensor.span else None


def _load_old(path: Path) -> Any:
    """Reads a file from before torch 1.6 with torch, which runs no code of the file either."""
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
    """Writes one array as ``torch.save`` writes a tensor.

    Args:
        array: of a dtype in ``STORAGES``.
        file: the path.
    """
    kind = next(name for name, dtype in STORAGES.items() if np.dtype(dtype) == array.dtype)
    stride = [int(np.prod(array.shape[dim + 1 :])) for dim in range(array.ndim)]
    storage = _text("storage") + f"ctorch\n{kind}\n".encode() + _text("0") + _text("cpu") + _number(array.size)
    arguments = b"(" + storage + b"tQ" + _number(0) + _numbers(array.shape) + _numbers(stride)
    arguments += b"\x89" + b"ccollections\nOrderedDict\n)R"  # no gradient, no hooks
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{file.stem}/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR.")
        archive.writestr(f"{file.stem}/byteorder", "little")
        record = zipfile.ZipInfo(f"{file.stem}/data/0")
        begin = archive.start_dir + LOCAL_HEADER.size + len(record.filename) + 4
        padding = -begin % ALIGNMENT
        record.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
        archive.writestr(record, np.ascontiguousarray(array).tobytes())
        archive.writestr(f"{file.stem}/version", "3\n")


def _text(text: str) -> bytes:
    """A string in a pickle; the next two functions give an integer and a tuple of integers."""
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _numbers(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"
