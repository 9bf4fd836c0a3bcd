"""What encode-data writes about a folder that it made.

encoded.json
    files         all there will be
    source        the config of the source that was encoded
    text_length   of the captions whose embeddings are stored: T5 reads their padding, so they fit no other length
    tokenizer     Tokenizer.fingerprint
    made_by       the model folder, and what its frozen networks are
    fingerprints  of their weights (encoding/frozen_encoder.py)
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff_jax.errors import UserError

MANIFEST = "encoded.json"
TEXT_ONLY = "text-"  # how files of records without an image begin

# What a source holds of its images.
IMAGES, LATENTS, LATENTS_AND_TEXT = "images", "latents", "latents and embeddings of captions"


@dataclasses.dataclass(frozen=True)
class Manifest:
    folder: Path
    files: Sequence[str]
    task: str  # of the source that was encoded
    text_length: int
    tokenizer: str
    made_by: Mapping[str, Any]
    fingerprints: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def kind(self) -> str:
        return LATENTS_AND_TEXT if self.task == "image_generation" else LATENTS


def read_manifest(folder: str | Path) -> Manifest | None:
    """None where the folder was not written by encode-data. Raises ``UserError`` unless it is finished."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        given = {name: found[name] for name in ("files", "text_length", "tokenizer", "made_by", "fingerprints")}
        manifest = Manifest(folder=folder, task=found["source"]["task"], **given)
        missing = set(manifest.files) - {file.name for file in folder.iterdir()}  # one look, not one a file
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST}: is damaged ({error!r}); encode the data anew") from error
    if missing:
        raise UserError(
            f"{folder}: encoding is not finished, {len(missing)} of {len(manifest.files)} files are missing; "
            "run the same --mode=encode-data again"
        )
    return manifest
