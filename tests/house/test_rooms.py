"""How large rooms, files and functions may grow, and who alone may touch the file system."""

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dualdiff_jax"
LINES, FUNCTION_LINES, FILES_AT_THE_ROOT = 300, 60, 9

# What only ``files.py`` does: renaming, replacing, removing, forcing to disk, telling a URL.
FILE_SYSTEM = re.compile(
    r"\bos\.(rename|replace|remove|unlink|rmdir|fsync)\b|\bshutil\.(rmtree|move|disk_usage)\b"
    r"|\.(rename|unlink|rmdir)\(|\bfsync\(|://"
)


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def functions(file: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def code_of(file: Path) -> str:
    """Without comments and docstrings, which may speak of anything."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    return ast.unparse(tree)


def test_a_file_is_read_in_one_sitting():
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in package_files()}
    assert {str(file.relative_to(ROOT)): count for file, count in lengths.items() if count > LINES} == {}


def test_a_function_is_one_thought():
    long = [
        f"{file.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for file in package_files()
        for node in functions(file)
        if node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert long == []


def test_few_files_lie_at_the_root_of_the_package():
    assert len([file for file in PACKAGE.glob("*.py") if file.name != "__init__.py"]) <= FILES_AT_THE_ROOT


def test_one_file_alone_touches_the_file_system():
    touched = {
        str(file.relative_to(PACKAGE)): found
        for file in package_files()
        if file.name != "files.py" and (found := sorted({m[0] for m in FILE_SYSTEM.finditer(code_of(file))}))
    }
    assert touched == {}


def test_no_two_classes_have_one_name():
    """One word has one meaning; a leading underscore makes a name its file's own."""
    homes: dict[str, list[str]] = {}
    for file in package_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


@pytest.mark.slow
def test_a_wheel_brings_one_name(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"dualdiff_jax"}
    assert {"dualdiff_jax/py.typed", "dualdiff_jax/data/t5_tokenizer/tokenizer.json"} <= set(names)
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "dualdiff = dualdiff_jax.cli.main:run" in zipfile.ZipFile(wheel).read(entry).decode()
