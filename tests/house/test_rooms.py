"""How many files lie at the package's root, which room alone touches the file system, and what a wheel brings."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dualdiff_jax.cli.modes import MODES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dualdiff_jax"
FILES_AT_THE_ROOT = 9

# What only the room ``files`` does: renaming, replacing, removing, forcing to disk, telling a URL.
FILE_SYSTEM_ROOM = PACKAGE / "files"
FILE_SYSTEM = re.compile(
    r"\bos\.(rename|replace|remove|unlink|rmdir|fsync)\b|\bshutil\.(rmtree|move|disk_usage)\b"
    r"|\.(rename|unlink|rmdir)\(|\bfsync\(|://"
)


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


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


def test_few_files_lie_at_the_root_of_the_package():
    assert len([file for file in PACKAGE.glob("*.py") if file.name != "__init__.py"]) <= FILES_AT_THE_ROOT


def test_one_room_alone_touches_the_file_system():
    touched = {
        str(file.relative_to(PACKAGE)): found
        for file in package_files()
        if file.parent != FILE_SYSTEM_ROOM and (found := sorted({m[0] for m in FILE_SYSTEM.finditer(code_of(file))}))
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built in a copy, so that no build folder is left in the checkout; with the setuptools that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, folder / "dualdiff_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("convert", "configs", "demo", "benchmarks", "tests"):  # packages of the checkout alone
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "NOTICE", "main.py"):
        shutil.copy(ROOT / name, folder)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", str(folder / "dist")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(folder)], check=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_a_wheel_brings_one_name_with_its_types_and_tokenizer(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"dualdiff_jax"}
    files = {str(file.relative_to(ROOT)) for file in PACKAGE.rglob("*") if file.is_file()}
    assert {file for file in files if "__pycache__" not in file} <= names
    assert {"dualdiff_jax/py.typed", "dualdiff_jax/data/t5_tokenizer/tokenizer.json"} <= names


def test_an_installed_wheel_has_a_light_import_and_a_command(wheel, tmp_path):
    options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    def output(*command: str, status: int = 0) -> str:
        finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert finished.returncode == status, finished.stderr
        return finished.stdout

    script = "import sys, dualdiff_jax; print(dualdiff_jax.__file__, {'jax', 'numpy', 'transformers'} & {*sys.modules})"
    assert output(sys.executable, "-c", script) == f"{tmp_path / 'site/dualdiff_jax/__init__.py'} set()\n"
    for command in ([str(tmp_path / "site/bin/dualdiff")], [sys.executable, str(ROOT / "main.py")]):
        shown = output(*command, "--help")
        assert re.findall(r"^([a-z-]+) {2,}\S", shown, re.MULTILINE) == list(MODES)
