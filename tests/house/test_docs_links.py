"""What the pages name is there: links, modules, files, flags and targets of ``make``. Nothing of them is imported."""

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```[^\n]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
DOTTED = re.compile(r"\bdualdiff_jax(?:\.\w+)+")
IMPORT = re.compile(r"^from (dualdiff_jax[\w.]*) import ([\w, ]+)$", re.MULTILINE)
FILE = re.compile(r"(?<![\w/.{}-])[\w./-]+/[\w.-]+\.py\b")
COMMAND = re.compile(r"(?:\bmain\.py|\bdualdiff) (.*)")
DEFINED = re.compile(r'\b(?:(?:DEFINE_\w+|define_number)\(|DEFINE\(\s*\w+\([^)]*\),)\s*"([\w-]+)"')
MAKE = re.compile(r"^make ([\w-]+)", re.MULTILINE)


def code_of(text: str) -> list[str]:
    """Blocks and words in backticks; a line that ends in a backslash is joined with the next."""
    return [(block or word).replace("\\\n", " ") for block, word in CODE.findall(text)]


def lost_links(page: Path, text: str) -> Iterator[str]:
    for link in LINK.findall(text):
        target = link.partition("#")[0]
        if target and "://" not in target and not (page.parent / target).exists():
            yield f"link {link}"


def resolves(root: Path, name: str) -> bool:
    """Whether a dotted name is a package, a module, or a name that a module binds."""
    *parents, last = name.split(".")
    place = root.joinpath(*parents, last)
    if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
        return True
    folder = root.joinpath(*parents)
    module = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return module.is_file() and last in bound(module)


@functools.cache
def bound(module: Path) -> frozenset[str]:
    """Every name that a module binds at its top level, under ``if TYPE_CHECKING`` too."""
    names: set[str] = set()
    nodes = ast.parse(module.read_text(encoding="utf-8")).body
    for node in nodes:  # grows by what stands under an ``if``
        if isinstance(node, ast.If):
            nodes += node.body
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return frozenset(names)


def lost_names(root: Path, text: str) -> Iterator[str]:
    names = DOTTED.findall(text)
    for module, imported in IMPORT.findall(text):
        names += [f"{module}.{name.split()[0]}" for name in imported.split(",")]
    yield from (f"name {name}" for name in names if not resolves(root, name))


def lost_files(root: Path, page: Path, text: str) -> Iterator[str]:
    """Paths of Python files; a path is given from the root, from the package or from the page's folder."""
    for code in code_of(text):
        for path in FILE.findall(code):
            if not any((folder / path).is_file() for folder in (root, root / "dualdiff_jax", page.parent)):
                yield f"file {path}"


def lost_flags(defined: set[str], text: str) -> Iterator[str]:
    """Flags of command lines that run ``main.py`` or ``dualdiff``, up to a comment, a pipe or the end of the line."""
    for code in code_of(text):
        for arguments in COMMAND.findall(code):
            for word in shlex.split(re.split(r"\s[#|>&]", arguments.replace("[", "").replace("]", ""))[0]):
                name = word.removeprefix("--").partition("=")[0]
                if word.startswith("--") and name not in defined and not name.startswith("config."):
                    yield f"flag --{name}"


def lost_targets(targets: set[str], text: str) -> Iterator[str]:
    for code in code_of(text):
        yield from (f"make {target}" for target in MAKE.findall(code) if target not in targets)


def flags() -> set[str]:
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "dualdiff_jax" / "cli").glob("*.py")]
    return {name for source in sources for name in DEFINED.findall(source)} | {"help"}


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    lost = [
        *lost_links(page, text),
        *lost_names(ROOT, text),
        *lost_files(ROOT, page, text),
        *lost_flags(flags(), text),
        *lost_targets(make_targets(), text),
    ]
    assert lost == []


def test_each_check_finds_what_is_gone(tmp_path):
    room = tmp_path / "dualdiff_jax" / "room"
    room.mkdir(parents=True)
    for folder in (room.parent, room):
        (folder / "__init__.py").touch()
    (room / "table.py").write_text("if True:\n    from a.b import c\nROWS: dict = {}\ndef fill(): pass\n")
    page = tmp_path / "docs" / "page.md"
    links = "[a](page.md#part) [b](gone.md) [c](https://example.org/x) [d](#part)"
    page.parent.mkdir()
    page.write_text(links)
    assert list(lost_links(page, links)) == ["link gone.md"]

    names = "`dualdiff_jax.room.table.ROWS`, dualdiff_jax.room.table.fill, dualdiff_jax.room.table.c, dualdiff_jax.room"
    assert list(lost_names(tmp_path, names)) == []
    names = "dualdiff_jax.old and dualdiff_jax.room.table.lost\nfrom dualdiff_jax.room.table import ROWS, gone\n"
    expected = ["dualdiff_jax.old", "dualdiff_jax.room.table.lost", "dualdiff_jax.room.table.gone"]
    assert list(lost_names(tmp_path, names)) == [f"name {name}" for name in expected]

    paths = "`room/table.py`, `dualdiff_jax/room/table.py`, `room/gone.py`, prose/a.py\n```\npython old/run.py\n```\n"
    assert list(lost_files(tmp_path, page, paths)) == ["file room/gone.py", "file old/run.py"]

    commands = "`main.py --mode=train --config.seed=1`\n```bash\npython main.py --mode=plan \\\n  --gone=1  # --note\n"
    commands += "dualdiff --lost | jq --raw\npython -m convert --other\n```\n"
    assert list(lost_flags({"mode"}, commands)) == ["flag --gone", "flag --lost"]

    assert list(lost_targets({"demo"}, "`make demo`\n```\nmake gone X=1   # make more\n```\n")) == ["make gone"]
