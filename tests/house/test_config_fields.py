"""The program reads every field of the config: a setting that does nothing misleads."""

import ast
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from dualdiff_jax import config

ROOT = Path(__file__).parents[2]


def config_classes() -> list[type]:
    return [c for c in vars(config).values() if dataclasses.is_dataclass(c)]


def reading_files() -> list[Path]:
    """The program without config/, which reads its own fields to check them; demos and tests do not count."""
    files = [*sorted((ROOT / "dualdiff_jax").rglob("*.py")), ROOT / "main.py"]
    return [file for file in files if Path(config.__file__).parent not in file.parents]


def reads(sources: Iterable[str]) -> set[tuple[str, str]]:
    """(owner, field) of every attribute that the sources read: ("a", "b") for x.a.b, and ("x", "b") for x.b."""
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                name = getattr(owner, "attr", None) or getattr(owner, "id", None) or ""
                found.add((name, node.attr))
    return found


def owners(classes: Iterable[type]) -> dict[str, set[type]]:
    """Field name -> the classes that have it."""
    found: dict[str, set[type]] = {}
    for cls in classes:
        for field in dataclasses.fields(cls):
            found.setdefault(field.name, set()).add(cls)
    return found


def unread(classes: list[type], sources: Iterable[str]) -> list[str]:
    """``Class.field`` of each field that no source reads.

    A read counts for a class if the owner is the section that holds the class (``config.t5.width``), or a variable
    that could hold any class (``config.width``); a read from another class's section does not count.
    """
    found, by_name = reads(sources), owners(classes)
    sections = {}
    for cls in classes:
        for field in dataclasses.fields(cls):
            if field.type in classes:
                sections[field.name] = field.type
    missing = []
    for name, having in by_name.items():
        for cls in having:
            is_read = any(attribute == name and sections.get(owner, cls) is cls for owner, attribute in found)
            missing += [] if is_read else [f"{cls.__name__}.{name}"]
    return sorted(missing)


def test_every_field_of_every_section_is_read():
    assert unread(config_classes(), [file.read_text(encoding="utf-8") for file in reading_files()]) == []


def test_the_search_covers_sections_and_files():
    names = {cls.__name__ for cls in config_classes()}
    assert {"RunConfig", "ModelConfig", "MMDiTConfig", "TrainConfig", "SourceConfig", "MeshConfig"} <= names
    assert {"step.py", "loop.py", "mmdit.py", "main.py", "train.py"} <= {file.name for file in reading_files()}


@dataclasses.dataclass
class Brush:
    width: int
    colour: str


@dataclasses.dataclass
class Paper:
    width: int
    brush: Brush


def test_a_field_that_nothing_reads_is_found():
    assert unread([Brush, Paper], ["config.brush.width + config.width"]) == ["Brush.colour"]
    assert unread([Brush, Paper], ["config.brush.colour", "config.width"]) == []


def test_writing_a_field_is_not_reading_it():
    assert unread([Brush, Paper], ["config.brush.colour = 'red'", "config.width"]) == ["Brush.colour"]


def test_a_read_of_the_same_name_in_another_section_does_not_count():
    assert unread([Brush, Paper], ["config.brush.width", "config.brush.colour"]) == ["Paper.width"]
