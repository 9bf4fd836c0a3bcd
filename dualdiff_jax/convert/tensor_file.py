"""A file of named tensors, read one tensor at a time.

Tensors are read by offset and not mapped, so that memory holds only the tensor in use. LoRAs that this program writes
hold a CRC-32 of each tensor in their metadata, which is compared when the tensor is read.
"""

import dataclasses
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from dualdiff_jax.errors import POINTER_HEAD, UserError, pointer_fault, quoted, reason
from dualdiff_jax.files import is_bucket
from dualdiff_jax.files.ranges import open_random, read_part
from dualdiff_jax.json_files import LARGEST, checked, parse_json

CHECKSUMS = "dualdiff_jax.crc32"  # in a file's metadata: key of each tensor -> its checksum, as JSON
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def checksum(tensor: np.ndarray) -> str:
    """Dtype, shape and CRC-32 of a tensor, as ``CHECKSUMS`` holds them."""
    return f"{_kind(tensor)}{zlib.crc32(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data):08x}"


def _kind(tensor: np.ndarray) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} "


class TensorFile(Mapping[str, TensorInfo]):
    """The tensors of one file, by key. A subclass fills ``_infos`` and implements ``read``."""

    path: Path
    _infos: dict[str, TensorInfo]

    def __getitem__(self, key: str) -> TensorInfo:
        return self._infos[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def read(self, key: str) -> np.ndarray:
        """The tensor, in the dtype of the file. Raises ``UserError`` where the file is damaged."""
        raise NotImplementedError


class SafetensorsFile(TensorFile):
    """One ``.safetensors`` file. Raises ``UserError`` where it is truncated or of another kind.

    Attributes:
        metadata: what its writer noted in it, by name.
    """

    def __init__(self, path: Path):
        self.path = path
        with open_random(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            text = file.read(length) if length <= min(LARGEST, size) else b""
        try:
            names = _checked_names(path, size, struct.pack("<Q", length) + text)
            if not text:
                raise SafetensorError(f"its header has {length} bytes")
        except SafetensorError as error:
            refuse_pointer(path)
            raise UserError(
                f"{path}: cannot be read ({reason(error)}); it is truncated or no safetensors file: download it again"
            ) from error
        header = parse_json(text, str(path))
        self.metadata: dict[str, str] = header.get("__metadata__", {})
        where = f"{path}: {CHECKSUMS}"
        self._checksums = checked(parse_json(self.metadata.get(CHECKSUMS, "{}"), where), dict, where)
        self._start = 8 + length
        self._offsets = {name: header[name]["data_offsets"] for name in names}
        unknown = sorted({header[name]["dtype"] for name in names} - DTYPES.keys())
        if unknown:
            raise UserError(f"{path}: holds tensors of dtype {', '.join(unknown)}, which no release of the model has")
        self._infos = {
            name: TensorInfo(tuple(header[name]["shape"]), np.dtype(DTYPES[header[name]["dtype"]])) for name in names
        }

    def read(self, key: str) -> np.ndarray:
        info, (begin, end) = self._infos[key], self._offsets[key]
        data = read_part(self.path, self._start + begin, end - begin)
        if len(data) != end - begin:
            raise UserError(f"{self.path}: {quoted(key)} is cut off; the file has changed, import it again")
        tensor = data.view(info.dtype).reshape(info.shape)
        self._check(key, tensor)
        return tensor

    def _check(self, key: str, tensor: np.ndarray) -> None:
        """Raises ``UserError`` where a tensor has the dtype and shape that were written, and other bits."""
        written = str(self._checksums.get(key, ""))
        if written.startswith(_kind(tensor)) and written != checksum(tensor):
            raise UserError(
                f"{self.path}: {quoted(key)} was changed since it was written; copy the file again, or, where a "
                f"program changed it on purpose, take {CHECKSUMS} out of the metadata"
            )


def refuse_pointer(path: Path) -> None:
    """Raises ``UserError`` where ``path`` is what a clone without Git LFS has in the place of a large file."""
    with open_random(path) as file:
        if fault := pointer_fault(file.read(POINTER_HEAD)):
            raise UserError(f"{path}: {fault}")


def _checked_names(path: Path, size: int, head: bytes) -> list[str]:
    """The names in a file whose header fits its ``size``; the library checks that. Raises ``SafetensorError``."""
    if is_bucket(path):  # it opens nothing there: it checks a file of that size which takes no room, with the same head
        with tempfile.NamedTemporaryFile(prefix="dualdiff-") as stand_in:
            stand_in.write(head[:size])
            stand_in.truncate(size)
            return _checked_names(Path(stand_in.name), size, head)
    with safe_open(path, framework="np") as opened:
        return list(opened.keys())
