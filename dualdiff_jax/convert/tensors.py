"""The tensors of a component: in one file, or in shards with an index."""

import abc
import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dualdiff_jax.convert.tensor_file import SafetensorsFile, TensorFile, TensorInfo
from dualdiff_jax.convert.torch_file import TorchFile
from dualdiff_jax.errors import QUOTED, UserError, quoted
from dualdiff_jax.files import check_regular, dead_link
from dualdiff_jax.json_files import checked, field, read_object

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
LONGEST_FILE_NAME = 200  # characters of a shard's name
SHOWN = 40  # lines of a list in a message


class Tensors(Mapping[str, TensorInfo], abc.ABC):
    """Named tensors that are read one at a time.

    Attributes:
        path: of the file or folder, for messages.
        scaled: keys whose 8-bit numbers are multiplied by a scale (``scaled.CleanTensors``).
        left_out: keys in the files that belong to no network.
    """

    path: Path
    scaled: Collection[str] = ()
    left_out: Sequence[str] = ()

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
        UserError: two files hold the same key, or a key is no plain name.
    """

    def __init__(self, path: Path, files: list[TensorFile]):
        self.path = path
        self._files: dict[str, TensorFile] = {}
        for file in files:
            for key in file:
                _check_name(key, file.path)
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


def absence(path: Path, kind: str = "file") -> str:
    """Says that no ``kind`` is at ``path``, or only a link that leads nowhere: a copy without what it leads to."""
    if fault := dead_link(path):
        return f"{fault}; copy that too"
    return f"{path}: there is no such {kind}"


def open_file(path: Path) -> TensorFile:
    """Opens a tensor file by its suffix. Raises ``UserError`` where it is missing, unreadable or of another kind."""
    if not path.exists():
        raise UserError(absence(path))
    check_regular(path)
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
    shard_of = _read_index(index)
    missing = _missing_shards(index, shard_of)
    if missing:
        raise UserError(f"{index}: names {len(missing)} files that are not there: {some(missing)}; download them too")
    tensors = FileTensors(index.parent, [open_file(index.parent / name) for name in sorted(set(shard_of.values()))])
    misplaced = [
        f"{key}: found in {tensors.file_of(key).name if key in tensors else 'no shard'}, expected in {name}"
        for key, name in shard_of.items()
        if key not in tensors or tensors.file_of(key).name != name
    ]
    if misplaced:
        raise UserError(f"{index}: does not fit its shards:\n" + "\n".join(f"  {line}" for line in misplaced[:SHOWN]))
    return tensors


def _read_index(index: Path) -> dict[str, str]:
    """Key -> name of the shard that holds it."""
    shard_of = field(read_object(index), "weight_map", dict, str(index))
    for key, name in shard_of.items():
        _check_name(key, index)
        is_plain = checked(name, str, f"{index}: {key}").isprintable() and len(name) <= LONGEST_FILE_NAME
        if name != Path(name).name or not is_plain:
            raise UserError(f"{index}: {key}: found {quoted(name)}, expected the name of a file beside the index")
    return shard_of


def _check_name(key: str, file: Path) -> None:
    """Refuses a tensor's name that no message could show."""
    if len(key) > QUOTED or not key.isprintable():
        raise UserError(
            f"{file}: a tensor has the name {quoted(key)}, expected at most {QUOTED} printable characters; the file is "
            "damaged or of no model that is known, download it again"
        )


def _missing_shards(index: Path, shard_of: Mapping[str, str]) -> list[str]:
    return sorted(name for name in set(shard_of.values()) if not (index.parent / name).exists())


def some(names: Sequence[str]) -> str:
    """The first ``SHOWN`` of ``names`` in one line, and how many others there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def listed_faults(faults: Sequence[str]) -> tuple[str, str]:
    """How many ``faults`` there are, such as "2 faults"; and a line for each of the first ``SHOWN``."""
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    rest = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return count, "\n".join(f"  {fault}" for fault in [*faults[:SHOWN], *rest])


def open_folder(folder: Path) -> FileTensors:
    """Opens the tensors of a component's folder.

    Among several sets it takes one that is complete; among these it prefers full precision to a variant such as
    ``fp16``, safetensors to torch's own files, and shards to a single file.

    Raises:
        UserError: the folder holds no tensors, several files of them, or files that cannot be read.
    """
    files = list(folder.iterdir())
    sets = [file for suffix in (".safetensors", *TORCH_SUFFIXES) for file in _sets(files, suffix)]
    if not sets:
        shards = _matching(files, "*-of-*.safetensors") + _matching(files, "*-of-*.bin")
        if shards:
            raise UserError(f"{folder}: has the shard {shards[0].name} and no index of shards; download it too")
        raise UserError(f"{folder}: holds no tensors (*.safetensors); download them too")
    whole = [file for file in sets if file.suffix != ".json" or not _missing_shards(file, _read_index(file))]
    best = min(whole or sets, key=_is_variant)  # the first of those that are equal
    if best.suffix == ".json":
        return open_sharded(best)
    alike = [file for file in sets if file.suffix == best.suffix]
    others = [file for file in alike if file.name.split(".")[0] != best.name.split(".")[0]]
    if others:
        raise UserError(f"{folder}: holds {len(alike)} files of tensors; name one: {best}, {others[0]}, ...")
    return FileTensors(folder, [open_file(best)])


def _sets(files: Sequence[Path], suffix: str) -> list[Path]:
    """Indexes of shards, then single files; each group by the length of the name."""
    indexes = [*_matching(files, f"*{suffix}.index.json"), *_matching(files, f"*{suffix}.index.*.json")]
    singles = [
        file for file in _matching(files, f"*{suffix}") if "-of-" not in file.name or "consolidated" in file.name
    ]
    return [
        file for group in (indexes, singles) for file in sorted(group, key=lambda file: (len(file.name), file.name))
    ]


def _matching(files: Sequence[Path], pattern: str) -> list[Path]:
    """The files whose names match a pattern, by name."""
    return sorted(file for file in files if fnmatch.fnmatchcase(file.name, pattern))


def _is_variant(file: Path) -> bool:
    """Whether a name has a part such as ``fp16`` between its stem and its suffixes."""
    return "." in re.sub(r"\.(safetensors|pth|pt|bin|index|json|\d+-of-\d+)(?=\.|$)", "", file.name)
