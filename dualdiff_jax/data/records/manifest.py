"""The manifest of a folder that encode-data wrote.

encoded.json
    files         the names of all record files, whether written yet or not
    source        the config of the source that was encoded
    text_length   tokens of the captions whose embeddings are stored; T5 reads the padding too, so they fit this
                  length only
    tokenizer     Tokenizer.fingerprint
    made_by       the configs of the frozen networks; the model folder, which is named and not compared
    fingerprints  of the weights of these networks (encoding/frozen_encoder.py)
    inputs        path -> [size, time in ns, digest] of each file that held the records when they were encoded. The
                  notes beside the record files (encoding/inputs.py) have their images. Earlier versions have neither.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import as_path
from dualdiff_jax.files.matching import names_in
from dualdiff_jax.json_files import checked, field, read_object

MANIFEST = "encoded.json"
MOST = 1 << 28  # bytes of it: a line of a hundred bytes for each of millions of files
TEXT_ONLY = "text-"  # prefix of files whose records have no image

# What a source stores for its images.
IMAGES, LATENTS, LATENTS_AND_TEXT = "images", "latents", "latents and embeddings of captions"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The fields above, and the folder."""

    folder: Path
    files: Sequence[str]
    task: str  # of the source that was encoded
    text_length: int
    tokenizer: str
    made_by: Mapping[str, Any]
    fingerprints: Mapping[str, Mapping[str, Sequence[float]]]
    inputs: Mapping[str, tuple[int, int, str]]

    @property
    def kind(self) -> str:
        """``LATENTS`` or ``LATENTS_AND_TEXT``."""
        return LATENTS_AND_TEXT if self.task == "image_generation" else LATENTS


def read_manifest(folder: str | Path) -> Manifest | None:
    """The manifest of ``folder``; None if encode-data did not write the folder.

    Raises:
        UserError: the manifest is damaged, or encoding is not finished.
    """
    folder = as_path(folder)
    try:
        if not (folder / MANIFEST).is_file():
            return None
        manifest = _manifest(folder)
        missing = set(manifest.files) - names_in(folder)  # one listing, not one stat a file
    except OSError as error:
        raise UserError(f"{folder / MANIFEST}: cannot be read ({error.strerror}); check its permissions") from error
    except UserError as error:
        raise UserError(f"{error}; the manifest is damaged, remove {folder} and encode the data again") from error
    if missing:
        raise UserError(
            f"{folder}: encoding is not finished, {len(missing)} of {len(manifest.files)} files are missing; "
            "run the same --mode=encode-data again"
        )
    return manifest


def _manifest(folder: Path) -> Manifest:
    name = str(folder / MANIFEST)
    content = read_object(folder / MANIFEST, MOST)
    source, made_by = field(content, "source", dict, name), field(content, "made_by", dict, name)
    return Manifest(
        folder=folder,
        files=[checked(file, str, f"{name}: files") for file in field(content, "files", list, name)],
        task=field(source, "task", str, f"{name}: source"),
        text_length=field(content, "text_length", int, name),
        tokenizer=field(content, "tokenizer", str, name),
        made_by={
            key: value
            for key, value in made_by.items()
            if key == "model" or checked(value, dict, f"{name}: made_by: {key}")
        },
        fingerprints=fingerprints_in(content, name),
        inputs=inputs_in(content, name),
    )


def fingerprints_in(content: Mapping[str, Any], name: str) -> dict[str, dict[str, list[float]]]:
    """The ``fingerprints`` of a manifest, checked. Raises ``UserError``."""
    found = field(content, "fingerprints", dict, name)
    name = f"{name}: fingerprints"
    return {
        network: {
            leaf: [checked(number, float, name) for number in _of_length(2, numbers, name)]
            for leaf, numbers in checked(leaves, dict, name).items()
        }
        for network, leaves in found.items()
    }


def inputs_in(content: Mapping[str, Any], name: str) -> dict[str, tuple[int, int, str]]:
    """The ``inputs`` of a manifest, checked; {} for one of an earlier version. Raises ``UserError``."""
    found, name = checked(content.get("inputs", {}), dict, f"{name}: inputs"), f"{name}: inputs"
    stamps = {}
    for path, stamp in found.items():
        size, time, digest = _of_length(3, stamp, name)
        stamps[path] = (checked(size, int, name), checked(time, int, name), checked(digest, str, name))
    return stamps


def _of_length(length: int, value: Any, name: str) -> list[Any]:
    if len(checked(value, list, name)) != length:
        raise UserError(f"{name}: found {quoted(value)}, expected a list of {length}")
    return value
