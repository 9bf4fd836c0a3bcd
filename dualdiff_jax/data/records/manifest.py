"""The manifest of a folder that encode-data wrote.

encoded.json
    files         the names of all record files, whether written yet or not
    source        the config of the source that was encoded
    text_length   tokens of the captions whose embeddings are stored; T5 reads the padding too, so they fit this
                  length only
    tokenizer     Tokenizer.fingerprint
    made_by       the model folder, and the configs of its frozen networks
    fingerprints  of the weights of these networks (encoding/frozen_encoder.py)
    inputs        path -> [size, time in ns, digest] of each file that held the records when they were encoded. The
                  notes beside the record files (encoding/inputs.py) have their images. Earlier versions have neither.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path
from dualdiff_jax.files.matching import names_in

MANIFEST = "encoded.json"
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
        fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        given = {name: fields[name] for name in ("files", "text_length", "tokenizer", "made_by", "fingerprints")}
        inputs = {path: (int(s), int(t), str(digest)) for path, (s, t, digest) in fields.get("inputs", {}).items()}
        manifest = Manifest(folder=folder, task=fields["source"]["task"], inputs=inputs, **given)
        missing = set(manifest.files) - names_in(folder)  # one listing, not one stat a file
    except OSError as error:
        raise UserError(f"{folder / MANIFEST}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST}: is damaged ({error!r}); encode the data again") from error
    if missing:
        raise UserError(
            f"{folder}: encoding is not finished, {len(missing)} of {len(manifest.files)} files are missing; "
            "run the same --mode=encode-data again"
        )
    return manifest
