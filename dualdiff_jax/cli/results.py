"""Where the sampling commands write: the folder of a command's results, its images, and the rows that it prints."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.cli.loading import is_first_host
from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import as_path, is_bucket, is_there, locked_folder, new_file, read_regular, remove, write_text
from dualdiff_jax.files.matching import names_in
from dualdiff_jax.json_files import parse_json

LIST = "images.json"
MOST_LISTED = 1 << 30  # bytes of a list of images
BREAKS = {ord(sign): repr(sign)[1:-1] for sign in "\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"}  # of a row that is printed


def image_names(rows: Sequence[Any]) -> list[str]:
    """The files that ``write_images`` writes for ``rows``."""
    return [*(f"{index:04d}.png" for index in range(len(rows))), LIST]


def write_images(
    folder: Path, images: Sequence[Any] | np.ndarray, rows: Sequence[dict[str, Any]], as_json: bool, line: str
) -> None:
    """Writes PIL images and their list: ``rows`` with the files added. Prints that list.

    Images that an older list names, and this one does not, are removed: the list would no longer say what they are.
    """
    *names, listed = image_names(rows)
    older = _listed(folder) if is_first_host() else set()
    found = []
    for name, image, row in zip(names, images, rows, strict=True):
        if is_first_host():
            with _writing(folder / name), new_file(folder / name) as partial:
                image.save(partial, "PNG")
        found.append({"image": str(folder / name), **row})
    report_rows(found, folder / listed, as_json, line)
    for name in sorted(older.difference(names)):
        remove(folder / name)


def _listed(folder: Path) -> set[str]:
    """The images of ``folder`` that ``write_images`` wrote before, as far as their list can be read."""
    try:
        rows = parse_json(read_regular(folder / LIST, MOST_LISTED).decode(), LIST)
        files = [as_path(row["image"]).name for row in rows]
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or it is of another kind
        return set()
    return {name for number, name in enumerate(files) if name == f"{number:04d}.png"}


@contextlib.contextmanager
def results_folder(output: str, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A context in which this command alone writes results into a folder, which is made if necessary.

    Args:
        output: the folder.
        names: the files that will be written.
        overwrite: whether they may be replaced.

    Yields:
        The folder.

    Raises:
        UserError: another command writes there, the folder cannot be written, or one of the files exists.
    """
    folder = as_path(output)
    with locked_folder(folder, "--output"):
        if not overwrite:
            for name in _existing(folder, names):
                raise UserError(f"{folder / name}: exists; name another --output, or give --overwrite to replace it")
        yield folder


@contextlib.contextmanager
def results_file(output: str | None, name: str, overwrite: bool) -> Iterator[Path | None]:
    """The same for one file: yields its path, or None where ``output`` is None and the command only prints."""
    if not output:
        yield None
        return
    with results_folder(output, [name], overwrite) as folder:
        yield folder / name


def _existing(folder: Path, names: Sequence[str]) -> list[str]:
    """The ``names`` that ``folder`` has already."""
    if not is_bucket(folder):
        return [name for name in names if is_there(folder / name)]
    try:
        found = names_in(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); choose another --output") from error
    return [name for name in names if name in found]


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turns a failure to write ``file`` into a ``UserError``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({reason(error)}); make room, or name another --output") from error


def report_rows(rows: list[dict[str, Any]], file: Path | None, as_json: bool, line: str) -> None:
    """Writes ``rows`` to ``file`` and prints them, as JSON or each as ``line``; the first host does."""
    if not is_first_host():
        return
    text = mend_text(json.dumps(rows, indent=2, ensure_ascii=False))  # a prompt's bytes may be no UTF-8
    if file:
        with _writing(file):
            write_text(file, text + "\n")
    print(text if as_json else mend_text("\n".join(line.format(**_in_one_line(row)) for row in rows)))


def _in_one_line(row: dict[str, Any]) -> dict[str, Any]:
    """``row`` with tabs and ends of lines in its texts as escapes, so that it stays one line of columns."""
    return {name: value.translate(BREAKS) if isinstance(value, str) else value for name, value in row.items()}
