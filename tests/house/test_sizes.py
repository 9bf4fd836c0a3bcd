"""A file is read in one sitting, a function is one thought."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE_LINES = 300
FUNCTION_LINES = 60


def too_long(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > FILE_LINES:
            yield f"{file.relative_to(folder)} has {lines} lines, more than {FILE_LINES}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    yield f"{file.relative_to(folder)}: {node.name} has {lines} lines, more than {FUNCTION_LINES}"


def test_no_file_and_no_function_is_too_long():
    assert list(too_long(ROOT / "dualdiff_jax")) == []


def test_a_long_file_and_a_long_function_are_found(tmp_path):
    (tmp_path / "short.py").write_text("x = 1\n" * FILE_LINES)
    (tmp_path / "long.py").write_text("x = 1\n" * (FILE_LINES + 1))
    for name, lines in (("thought", FUNCTION_LINES), ("saga", FUNCTION_LINES + 1)):
        (tmp_path / f"{name}.py").write_text(f"class A:\n    def {name}(self):\n" + "        x = 1\n" * (lines - 1))
    assert list(too_long(tmp_path)) == [
        "long.py has 301 lines, more than 300",
        "saga.py: saga has 61 lines, more than 60",
    ]
