"""Which questions of a split are asked, after all have been looked at once."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.data.records.patterns import present
from dualdiff_jax.data.records.record import DataError
from dualdiff_jax.errors import UserError, quoted

SHOWN = 3  # faults that a message names


class Subset(NamedTuple):
    """The questions that are asked, in the order of their files."""

    indexes: list[int]
    ids: list[str]  # of ``indexes``


def choose(questions: Questions, limit: int | None, fault: Callable[[Question], str] = lambda question: "") -> Subset:
    """Looks at every question of a split and chooses some.

    Questions of one unit are chosen together. The choice depends on ids alone, and that of a larger ``limit`` has all
    of a smaller one, so that a run may go on with more.

    Args:
        questions: of the split.
        limit: about how many; None chooses all.
        fault: what keeps an answer to a question from being scored, "" is nothing; of a split with answers.

    Raises:
        UserError: questions are damaged, share an id, have no image or cannot be scored; with the first of them.
    """
    faults: list[str] = []
    seen: dict[str, int] = {}
    units: dict[str, list[int]] = {}
    images: dict[Path, str] = {}
    for index in range(len(questions)):
        try:
            question = questions[index]
        except DataError as error:
            faults.append(str(error))
            continue
        name = question.question_id
        if name in seen:
            faults.append(f"questions {seen[name]} and {index} have the same id {quoted(name)}")
        seen[name] = index
        if questions.is_answered and (why := fault(question)):
            faults.append(f"question {quoted(name)} {why}")
        units.setdefault(question.unit or name, []).append(index)
        if isinstance(question.image, os.PathLike):
            images.setdefault(cast(Path, question.image), name)
    chosen = set(_chosen(units, limit))
    ids = [(index, name) for name, index in seen.items() if index in chosen]
    there = present(images)
    faults += [
        f"{image}: there is no such image; question {quoted(name)} is about it"
        for image, name in images.items()
        if image not in there
    ]
    if faults:
        more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(
            f"{questions.root}: {questions.name} cannot be evaluated, for a score would leave out questions: "
            + "; ".join(faults[:SHOWN])
            + more
        )
    return Subset([index for index, _ in ids], [name for _, name in ids])


def _chosen(units: dict[str, list[int]], limit: int | None) -> Sequence[int]:
    if limit is None:
        return [index for indexes in units.values() for index in indexes]
    found: list[int] = []
    for unit in sorted(units, key=lambda unit: hashlib.sha256(unit.encode()).digest()):
        if len(found) >= limit:
            break
        found += units[unit]
    return found
