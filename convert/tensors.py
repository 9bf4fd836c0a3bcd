"""Files of named tensors, read one tensor at a time.

``.safetensors`` are read by offset, not mapped, so that memory holds what is being worked on and no more.
``.pth``, ``.pt`` and ``.bin`` go through ``torch.load(weights_only=True)``, which builds tensors and runs
nothing else that a pickle may carry.
"""

import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from dualdiff_jax.errors import UserError

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
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
REMAP_BYTES = 1 << 30  # a mapped torch file is opened anew after this much of it was read


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class TensorFile(Mapping[str, TensorInfo]):
    """What one file holds, by key; a subclass fills ``_infos`` and reads."""

    path: Path
    _infos: dict[str, TensorInfo]

    def __getitem__(self, key: str) -> TensorInfo:
        return self._infos[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def read(self, key: str) -> np.ndarray:
        """The tensor, in the file's dtype."""
        raise NotImplementedError


class SafetensorsFile(TensorFile):
    """One ``.safetensors`` file; ``UserError`` where it is truncated or none."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with safe_open(path, framework="np") as file:  # checks the header against the size of the file
                names = list(file.keys())
        except SafetensorError as error:
            raise UserError(
                f"{path}: cannot be read ({error}); it is truncated or no safetensors file: download it again"
            ) from error
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
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
        data = np.fromfile(self.path, np.uint8, count=end - begin, offset=self._start + begin)
        return data.view(info.dtype).reshape(info.shape)


class TorchFile(TensorFile):
    """One file that ``torch.save`` wrote: a dict of tensors, or one tensor, which is then named ``""``."""

    def __init__(self, path: Path):
        self.path = path
        self._tensors, self._read = self._load(), 0
        self._infos = {
            name: TensorInfo(*_shape_and_dtype(path, name, tensor)) for name, tensor in self._tensors.items()
        }

    def _load(self) -> dict[str, Any]:
        try:
            import torch
        except ImportError as error:
            raise UserError(f"{self.path}: reading it needs PyTorch; run: pip install torch") from error
        options = dict(map_location="cpu", weights_only=True)
        try:
            try:
                content = torch.load(self.path, mmap=True, **options)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):  # files older than torch 1.6 cannot be mapped
                    raise
                content = torch.load(self.path, **options)
        except Exception as error:  # pickle's and torch's many kinds
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            if "weights_only" in str(error) or "Unsupported" in str(error) or "GLOBAL" in str(error):
                raise UserError(
                    f"{self.path}: carries more than tensors and was not opened, for it could run code ({reason}); "
                    "save the plain state dict in the program it comes from"
                ) from error
            raise UserError(f"{self.path}: cannot be read ({reason}); it is damaged or no torch file") from error
        if isinstance(content, torch.Tensor):
            content = {"": content}
        if not isinstance(content, dict):
            raise UserError(f"{self.path}: holds a {type(content).__name__}, expected a dict of tensors")
        while len(content) == 1 and isinstance(next(iter(content.values())), dict):  # {"model": {...}}
            content = next(iter(content.values()))
        return content

    def read(self, key: str) -> np.ndarray:
        import torch

        if self._read > REMAP_BYTES:
            self._tensors, self._read = {}, 0
            self._tensors = self._load()
        info, tensor = self._infos[key], self._tensors[key].detach().contiguous()
        self._read += info.bytes
        return tensor.flatten().view(torch.uint8).numpy().view(info.dtype).reshape(info.shape).copy()


def _shape_and_dtype(path: Path, name: str, tensor: Any) -> tuple[tuple[int, ...], np.dtype]:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise UserError(f"{path}: {name} is a {type(tensor).__name__}, expected a tensor; save the plain state dict")
    kind = str(tensor.dtype).removeprefix("torch.")
    try:
        return tuple(tensor.shape), np.dtype(getattr(ml_dtypes, kind, None) or kind)
    except TypeError:
        raise UserError(f"{path}: {name} has dtype {kind}, which no release of the model has") from None


class Tensors(Mapping[str, TensorInfo]):
    """The tensors of one or several files (shards), by key. ``path`` is what messages name."""

    def __init__(self, path: Path, files: list[TensorFile]):
        self.path, self._files = path, {}
        for file in files:
            for key in file:
                if key in self._files:
                    raise UserError(f"{file.path}: holds {key}, which {self._files[key].path.name} holds too")
                self._files[key] = file

    def __getitem__(self, key: str) -> TensorInfo:
        return self._files[key][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def file_of(self, key: str) -> Path:
        return self._files[key].path

    def read(self, key: str) -> np.ndarray:
        """The tensor, in the file's dtype."""
        return self._files[key].read(key)


def open_file(path: Path) -> TensorFile:
    """A tensor file by its suffix; ``UserError`` where it is missing, unreadable or of another kind."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in TORCH_SUFFIXES:
        return TorchFile(path)
    raise UserError(f"{path}: is no file of tensors; expected .safetensors, {', '.join(TORCH_SUFFIXES)}")


def open_sharded(index: Path) -> Tensors:
    """The shards that a ``*.index.json`` names. All that is missing is told at once."""
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: is no index of shards ({error!r}); download it again") from error
    names = sorted(set(places.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index}: names {len(missing)} files that are not there: {', '.join(missing)}; download them too"
        )
    tensors = Tensors(index.parent, [open_file(index.parent / name) for name in names])
    strayed = [
        f"{key}: the index says {name}, found {tensors.file_of(key).name if key in tensors else 'it nowhere'}"
        for key, name in places.items()
        if key not in tensors or tensors.file_of(key).name != name
    ]
    if strayed:
        raise UserError(f"{index}: does not fit its shards:\n" + "\n".join(f"  {line}" for line in strayed))
    return tensors


def open_folder(folder: Path) -> Tensors:
    """The one set of tensors in a component's folder.

    safetensors before torch's own files; a full-precision set before a variant such as ``fp16``.
    """
    for suffix in ("safetensors", *(kind[1:] for kind in TORCH_SUFFIXES)):
        found = [*folder.glob(f"*.{suffix}.index.json"), *folder.glob(f"*.{suffix}.index.*.json")]
        if found:
            return open_sharded(min(found, key=lambda file: len(file.name)))
        files = sorted(folder.glob(f"*.{suffix}"), key=lambda file: len(file.name))
        shards = [file for file in files if "-of-" in file.name and "consolidated" not in file.name]
        if shards:
            raise UserError(f"{folder}: has the shard {shards[0].name} and no index of shards; download it too")
        if len(files) > 1 and files[0].name.split(".")[0] != files[1].name.split(".")[0]:
            raise UserError(f"{folder}: holds {len(files)} files of tensors; name one: {files[0]}, {files[1]}, ...")
        if files:
            return Tensors(folder, [open_file(files[0])])
    raise UserError(f"{folder}: holds no tensors (*.safetensors); download them too")
