"""The tensors of a component: in one file, or in shards with an index."""

import abc
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from dualdiff_jax.convert.tensor_file import SafetensorsFile, TensorFile, TensorInfo
from dualdiff_jax.convert.torch_file import TorchFile
from dualdiff_jax.errors import UserError

TORCH_SUFFIXES = (".pth", ".pt", ".bin")


class Tensors(Mapping[str, TensorInfo], abc.ABC):
    """Named tensors that are read one at a time. ``path`` is for messages."""

    path: Path

    @abc.abstractmethod
    def file_of(self, key: str) -> Path:
        """The file that holds ``key``."""

    @abc.abstractmethod
    def read(self, key: str) -> np.ndarray:
        """The tensor, in the dtype in which it is stored. Raises ``UserError`` where its file cannot be read."""


class FileTensors(Tensors):
    """The tensors of one or several files (shards).

    Args:
        path: a file or folder, for messages.
        files: the shards.

    Raises:
        UserError: two files hold the same key.
    """

    def __init__(self, path: Path, files: list[TensorFile]):
        self.path = path
        self._files: dict[str, TensorFile] = {}
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
        return self._files[key].read(key)


def open_file(path: Path) -> TensorFile:
    """Opens a tensor file by its suffix. Raises ``UserError`` where it is missing, unreadable or of another kind."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in TORCH_SUFFIXES:
        return TorchFile(path)
    raise UserError(f"{path}: is no file of tensors; expected .safetensors, {', '.join(TORCH_SUFFIXES)}")


def open_sharded(index: Path) -> FileTensors:
    """Opens the shards that a ``*.index.json`` names.

    Raises:
        UserError: the index or a shard cannot be read, or they do not fit; the message lists all that is missing.
    """
    try:
        shard_of: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in shard_of.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: is no index of shards ({error!r}); download it again") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index}: names {len(missing)} files that are not there: {', '.join(missing)}; download them too"
        )
    tensors = FileTensors(index.parent, [open_file(index.parent / name) for name in names])
    misplaced = [
        f"{key}: found in {tensors.file_of(key).name if key in tensors else 'no shard'}, expected in {name}"
        for key, name in shard_of.items()
        if key not in tensors or tensors.file_of(key).name != name
    ]
    if misplaced:
        raise UserError(f"{index}: does not fit its shards:\n" + "\n".join(f"  {line}" for line in misplaced))
    return tensors


def open_folder(folder: Path) -> FileTensors:
    """Opens the tensors of a component's folder.

    It prefers safetensors to torch's own files, and full precision to a variant such as ``fp16``.

    Raises:
        UserError: the folder holds no tensors, several files of them, or files that cannot be read.
    """
    for suffix in ("safetensors", *(dotted[1:] for dotted in TORCH_SUFFIXES)):
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
            return FileTensors(folder, [open_file(files[0])])
    raise UserError(f"{folder}: holds no tensors (*.safetensors); download them too")
