"""``--mode=compare A B``: what differs between two evaluations."""

import dataclasses
import json
from collections.abc import Sequence

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.compare import Difference
from dualdiff_jax.evaluation.compare import compare as differences_of
from dualdiff_jax.files import as_path


def compare(folders: Sequence[str], *, as_json: bool) -> None:
    """Prints, for each task that both folders have, the paired difference with its error.

    Args:
        folders: two that ``--mode=evaluate`` wrote.
        as_json: prints a list of objects in place of lines.

    Raises:
        UserError: there are not two folders, or they cannot be compared.
    """
    if len(folders) != 2:
        raise UserError(f"--mode=compare takes two folders, found {len(folders)}; give --mode=compare A B")
    found = differences_of(as_path(folders[0]), as_path(folders[1]))
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        print("\n".join(_text(each) for each in found))


def _text(found: Difference) -> str:
    before, now = ("-" if score is None else f"{score:.2f}" for score in found.scores)
    lines = [
        f"{found.task}: {before} -> {now} {found.unit}",
        f"  {found.questions} questions: {_figure(found.difference, found.standard_error)}; "
        f"{found.better} better, {found.worse} worse",
    ]
    lines += [f"  {kind} ({count}): {_figure(value, error)}" for kind, (value, error, count) in found.by_type.items()]
    lines += [f"  settings.{line}" for line in found.settings]
    return "\n".join(lines)


def _figure(difference: float, error: float | None) -> str:
    return f"{difference:+.4f}" + ("" if error is None else f" +- {error:.4f}")
