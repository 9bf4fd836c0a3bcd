"""Files of ``torch.save`` without torch.

Since torch 1.6 they are uncompressed zip archives: ``NAME/data.pkl`` is a pickle of the saved object, and
``NAME/data/KEY`` holds the bytes of each storage. Before, they were a sequence of pickles (a magic number, a version,
facts about the machine, the object, the keys of its storages), then for each storage its count and its bytes.
``tensor_pickle`` reads the pickles. Whatever a file claims is compared with its real size before memory is taken.
"""

import io
import math
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dualdiff_jax.convert.tensor_file import TensorFile, TensorInfo, refuse_pointer
from dualdiff_jax.convert.tensor_pickle import LARGEST, STORAGES, CodeFound, StorageView, read_pickle
from dualdiff_jax.errors import UserError, quoted, reason, shown
from dualdiff_jax.files.ranges import open_random, read_part, read_parts

ZIP_SIGNATURE = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s22xHH")  # start of a zip record: signature, length of its name and extra field
MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a file from before torch 1.6
COUNT = struct.Struct("<q")
ALIGNMENT = 64  # bytes; of storages in the file, as torch aligns them


class Bytes(NamedTuple):
    """Where a storage's bytes are in the file."""

    begin: int
    size: int


class TorchFile(TensorFile):
    """A file that holds a dict of tensors, directly or as the only entry of a dict such as {"model": ...}.

    A file that holds a single tensor gives it the key ``""``.

    Args:
        path: the file.

    Raises:
        UserError: the file is damaged, or holds anything else than tensors.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with open_random(path) as file:
                self._size = file.seek(0, os.SEEK_END)
                file.seek(0)
                is_zip = file.read(4) == ZIP_SIGNATURE
                file.seek(0)
                content, self._storages = _open_zip(file, path) if is_zip else _open_old(file, self._size)
        except CodeFound as error:
            raise UserError(
                f"{path}: holds more than tensors and was not opened, because it could run code ({reason(error)}); "
                "save the plain state dict in the program that wrote the file"
            ) from error
        except UserError as error:
            raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
        except OSError:
            raise
        except Exception as error:  # a damaged pickle or archive raises many types
            refuse_pointer(path)
            raise UserError(f"{path}: cannot be read ({reason(error)}); it is damaged or no torch file") from error
        self._tensors = _tensors(content, path)
        self._infos = {name: TensorInfo(tensor.shape, tensor.dtype) for name, tensor in self._tensors.items()}

    def read(self, key: str) -> np.ndarray:
        tensor = self._tensors[key]
        numbers = self._numbers(tensor)
        if numbers is None:
            raise UserError(f"{self.path}: {quoted(key)} exceeds its storage; the file is damaged, copy it again")
        strides = [stride * tensor.dtype.itemsize for stride in tensor.stride]
        return np.asarray(np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides), order="C")

    def _numbers(self, tensor: StorageView) -> np.ndarray | None:
        """The numbers from a tensor's first to its last; None where its storage or the file does not hold them."""
        storage, size = self._storages.get(tensor.key), tensor.dtype.itemsize
        if storage is None or min(tensor.offset, *tensor.shape, *tensor.stride, 0) < 0:
            return None
        if (tensor.offset + tensor.span) * size > storage.size or storage.begin + storage.size > self._size:
            return None
        if math.prod(tensor.shape) * size > self._size:  # a view that repeats its numbers
            return None
        data = read_part(self.path, storage.begin + tensor.offset * size, tensor.span * size)
        return data.view(tensor.dtype) if len(data) == tensor.span * size else None


def _tensors(content: Any, path: Path) -> dict[str, StorageView]:
    """The tensors in the object that a file holds, by name."""
    if isinstance(content, StorageView):
        content = {"": content}
    seen: set[int] = set()
    while isinstance(content, dict) and len(content) == 1 and id(content) not in seen:
        seen.add(id(content))
        (only,) = content.values()
        if not isinstance(only, dict):
            break
        content = only
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a dict of tensors")
    for name, tensor in content.items():
        if not isinstance(tensor, StorageView):
            raise UserError(
                f"{path}: {shown(name)} is a {type(tensor).__name__}, expected a tensor; save the plain state dict"
            )
        if not isinstance(name, str):
            raise UserError(f"{path}: a tensor has the name {quoted(name)}, expected a text; save the plain state dict")
    return content


def _open_zip(file: BinaryIO, path: Path) -> tuple[Any, dict[str, Bytes]]:
    """The object in an archive's pickle, and where its storages are."""
    with zipfile.ZipFile(file) as archive:
        records = {record.filename.partition("/")[2]: record for record in archive.infolist()}
        packed = [name for name, record in records.items() if record.compress_type]
        if packed:
            raise UserError(
                f"its {quoted(packed[0])} is compressed, which torch never does; it is damaged, save it again"
            )
        if any(record.header_offset < 0 for record in records.values()):
            raise ValueError("a record lies before the file")
        if "byteorder" in records and archive.open(records["byteorder"]).read(8) != b"little":
            raise UserError("was written on a big-endian machine; save it on a little-endian one")
        with archive.open(records["data.pkl"]) as pickle:
            content = read_pickle(io.BytesIO(pickle.read(LARGEST + 1)))
    storages, parts = {}, {name: record for name, record in records.items() if name.startswith("data/")}
    headers = read_parts(path, [(record.header_offset, LOCAL_HEADER.size) for record in parts.values()])
    for (name, record), header in zip(parts.items(), headers, strict=True):
        if len(header) == LOCAL_HEADER.size and header.startswith(ZIP_SIGNATURE):
            _, length, extra = LOCAL_HEADER.unpack(header)
            begin = record.header_offset + LOCAL_HEADER.size + length + extra
            storages[name.removeprefix("data/")] = Bytes(begin, record.file_size)
    return content, storages


def _open_old(file: BinaryIO, size: int) -> tuple[Any, dict[str, Bytes]]:
    """The object in a file from before torch 1.6, and where its storages are."""
    if read_pickle(file) != MAGIC or read_pickle(file) != OLD_VERSION:
        raise ValueError("it does not begin with torch's number")
    if not read_pickle(file)["little_endian"]:
        raise UserError("was written on a big-endian machine; save it on a little-endian one")
    content, keys = read_pickle(file), read_pickle(file)
    itemsizes = {tensor.key: tensor.dtype.itemsize for tensor in _views(content)}
    storages, begin = {}, file.tell()
    for key in keys:
        file.seek(begin)
        (count,) = COUNT.unpack(file.read(COUNT.size))
        storages[key] = Bytes(begin + COUNT.size, count * itemsizes.get(key, 1))
        begin += COUNT.size + storages[key].size
        if not 0 <= count <= begin <= size:
            raise ValueError("a storage exceeds the file")
    return content, storages


def _views(content: Any) -> list[StorageView]:
    """All tensors in nested dicts and lists."""
    found, open_, seen = [], [content], set()
    while open_:
        value = open_.pop()
        if isinstance(value, StorageView):
            found.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            open_ += value.values() if isinstance(value, dict) else value
    return found


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
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # a ``ZipInfo`` has a fixed date: equal tensors make equal files
        pickle = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR."
        archive.writestr(zipfile.ZipInfo(f"{file.stem}/data.pkl"), pickle)
        archive.writestr(zipfile.ZipInfo(f"{file.stem}/byteorder"), "little")
        record = zipfile.ZipInfo(f"{file.stem}/data/0")
        begin = archive.start_dir + LOCAL_HEADER.size + len(record.filename) + 4
        padding = -begin % ALIGNMENT
        record.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
        archive.writestr(record, np.ascontiguousarray(array).tobytes())
        archive.writestr(zipfile.ZipInfo(f"{file.stem}/version"), "3\n")
    file.write_bytes(buffer.getvalue())


def _text(text: str) -> bytes:
    """A string in a pickle; the next two functions give an integer and a tuple of integers."""
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _numbers(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"
