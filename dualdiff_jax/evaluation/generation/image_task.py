"""``ImageTask``: a benchmark whose prompts the model draws."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.generation.prompts import Prompt
from dualdiff_jax.evaluation.tasks.task import Reported


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """One benchmark.

    Attributes:
        name: in flags and files.
        title: in reports.
        layout: the files that it reads, for messages.
        open: folder of the publisher's files -> the prompts; raises ``UserError``.
        images_per_prompt: how many images are drawn of each prompt.
        reported: figures of the paper, as others quote them.
    """

    name: str
    title: str
    layout: str
    open: Callable[[Path], list[Prompt]]
    images_per_prompt: int = 1
    reported: tuple[Reported, ...] = ()

    def prompts(self, root: Path) -> list[Prompt]:
        """The prompts. Raises ``UserError`` where they are missing or damaged; with the layout."""
        try:
            return self.open(root)
        except UserError as error:
            raise UserError(f"task {self.name}: {error}; expected {self.layout} in {root}") from error
