"""The prompts of a benchmark, and where each of their images goes."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from dualdiff_jax.errors import UserError, quoted

LONGEST_NAME = 200  # characters of a part of a path


class Prompt(NamedTuple):
    """One prompt.

    Attributes:
        prompt_id: unique in the benchmark.
        text: the model reads it as it is.
        folder: of its images, below the benchmark's; "" is that itself.
        stem: names its image; "" where it has several, which are numbered.
        metadata: lies beside the images as ``metadata.jsonl`` where it is not None.
    """

    prompt_id: str
    text: str
    folder: str
    stem: str = ""
    metadata: dict[str, Any] | None = None

    def images(self, count: int) -> list[str]:
        """The names of its images, relative to the benchmark's folder."""
        names = [self.stem] if self.stem else [f"{number:04d}" for number in range(count)]
        return [f"{self.folder}/{name}.png".removeprefix("/") for name in names]


def check_prompts(prompts: Sequence[Prompt], file: object) -> None:
    """Raises ``UserError`` where there is no prompt, one is empty, or two have one id."""
    if not prompts:
        raise UserError(f"{file}: has no prompts; copy it again")
    seen: set[str] = set()
    for prompt in prompts:
        if not prompt.text.strip():
            raise UserError(f"{file}: prompt {quoted(prompt.prompt_id)} is empty")
        if prompt.prompt_id in seen:
            raise UserError(f"{file}: two prompts have the id {quoted(prompt.prompt_id)}")
        seen.add(prompt.prompt_id)


def checked_name(name: str, place: str) -> str:
    """A part of a path that a file gives. Raises ``UserError`` unless it names one file or folder."""
    is_plain = name.isprintable() and 0 < len(name) <= LONGEST_NAME and not name.startswith(".")
    if not is_plain or "/" in name or "\\" in name:
        raise UserError(f"{place}: found {quoted(name)}, expected a name that a file can have")
    return name


def chosen(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """At most ``limit`` prompts, in their order; a choice by their ids that has all of a smaller ``limit``."""
    if limit is None:
        return list(prompts)
    by_hash = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.prompt_id.encode()).digest())
    kept = {prompt.prompt_id for prompt in by_hash[:limit]}
    return [prompt for prompt in prompts if prompt.prompt_id in kept]
