"""``--mode=list-images``: the metadata of a folder of pictures."""

import json
import logging
from collections.abc import Sequence

from dualdiff_jax.data.picture_list import METADATA, list_pictures
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import as_path, is_writable, write_text
from dualdiff_jax.progress import bar

log = logging.getLogger(__name__)


def list_images(images: str, captions: Sequence[str], *, overwrite: bool, as_json: bool) -> None:
    """Writes ``metadata.json`` into a folder of pictures and prints its path and how many pictures it lists.

    Args:
        images: the folder.
        captions: none, or one for every picture that has no text beside it.
        overwrite: whether to replace a list that is there.
        as_json: prints an object in place of a line.

    Raises:
        UserError: a list is there already or cannot be written, or the pictures cannot be listed.
    """
    folder = as_path(images)
    file = folder / METADATA
    if len(captions) > 1 or not all(caption.strip() for caption in captions):
        raise UserError("--text is the one caption of all pictures that have none; give it once, and not empty")
    if file.exists() and not overwrite:
        raise UserError(f"{file}: exists; give --overwrite to replace it")
    if folder.is_dir() and not is_writable(folder):
        raise UserError(f"{folder}: cannot be written, and the list is kept there; make the folder writable")
    found = list_pictures(folder, captions[0] if captions else None, bar("reading"))
    for fault in found.left_out:
        log.warning("left out: %s", fault)
    try:
        write_text(file, json.dumps(found.records, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({reason(error)}); make the folder writable") from error
    if as_json:
        print(json.dumps({"file": str(file), "pictures": len(found.records), "left_out": found.left_out}, indent=2))
    else:
        print(f"{file}\t{len(found.records)} pictures")
