"""The model behind the page, and how a visitor would load it again."""

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import remove
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline

KEPT = 256  # folders of uploads and results, the latest of all visitors


class Studio(NamedTuple):
    """What all visitors of a page share."""

    pipe: DualDiffusionPipeline
    model: str  # as ``from_pretrained`` takes it
    loading: Mapping[str, Any]  # its other arguments, without those that are None
    program: str  # how the command line is started, "dualdiff" or "python main.py"
    folder: Path  # temporary; nothing is written elsewhere
    numbers: Iterator[int]  # of the folders in it

    def new_folder(self) -> Path:
        """An empty folder for one upload or result. The oldest one goes where there are ``KEPT``."""
        number = next(self.numbers)
        if number >= KEPT:
            remove(self.folder / f"{number - KEPT:06d}")
        folder = self.folder / f"{number:06d}"
        folder.mkdir()
        return folder


def open_studio(model: str, loading: Mapping[str, Any], program: str, folder: Path) -> Studio:
    """Loads the model.

    Args:
        model: a model folder, a diffusers folder, or a model on the hub.
        loading: ``dtype`` and ``t5_bits`` of ``DualDiffusionPipeline.from_pretrained``.
        program: how the command line is started.
        folder: an empty one, for uploads and results.

    Raises:
        UserError: the model cannot be loaded, or the folder cannot be written.
    """
    given = {name: value for name, value in loading.items() if value is not None}
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set TMPDIR to a folder with room") from error
    pipe = DualDiffusionPipeline.from_pretrained(model, **given)
    return Studio(pipe, model, given, program, folder, itertools.count())
