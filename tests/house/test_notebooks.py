"""The notebooks as they are stored: one title, one header, no outputs, and nothing named that is not there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.test_docs_links import flags, lost_flags, lost_links, lost_names

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r"\$\$.+?\$\$", re.DOTALL)  # a formula of its own
RUNTIMES = ('"jax[tpu]"', '"jax[cuda12]"')  # what the header installs on Colab


def source(cell: dict) -> str:
    return "".join(cell["source"])


def cells(notebook: dict, kind: str) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def header(notebook: dict) -> str:
    """The first cell of code."""
    return source(cells(notebook, "code")[0])


def faults(notebook: dict) -> Iterator[str]:
    """What is wrong with a notebook as it is stored, but for the names in it."""
    titles = [line for cell in cells(notebook, "markdown") for line in source(cell).splitlines() if line[:2] == "# "]
    if len(titles) != 1 or not source(notebook["cells"][0]).startswith("# "):
        yield f"has the titles {titles}, not one at its beginning"
    for line in "\n".join(BLOCK.sub("", source(cell)) for cell in cells(notebook, "markdown")).splitlines():
        if line.count("$") % 2:
            yield f"a formula does not end on its line: {line}"
    for cell in cells(notebook, "code"):
        if cell["outputs"] or cell["execution_count"] is not None:
            yield f"cell {cell['id']} has outputs"
    for runtime in RUNTIMES:
        if f"# %pip install -q -U {runtime} -r requirements.txt" not in header(notebook):
            yield f"its header does not install {runtime}"
    if "assert" not in source(notebook["cells"][-1]):
        yield "its last cell asserts nothing"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_stored_notebook_is_clean_and_names_what_is_there(file):
    notebook = json.loads(file.read_text(encoding="utf-8"))
    prose = "\n".join(map(source, cells(notebook, "markdown")))
    code = "\n".join(map(source, cells(notebook, "code")))
    commands = "```\n" + code.replace("{", "").replace("}", "") + "\n```"
    assert [*faults(notebook), *lost_links(file, prose), *lost_names(ROOT, code)] == []
    assert list(lost_flags(flags(), commands)) == []


def test_all_notebooks_begin_alike():
    assert len(NOTEBOOKS) == 3
    assert len({header(json.loads(file.read_text(encoding="utf-8"))) for file in NOTEBOOKS}) == 1


def test_each_fault_is_found():
    notebook = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    notebook["cells"][0]["source"] = ["No title $t\n= 1$"]
    code = cells(notebook, "code")
    code[0]["source"], code[1]["outputs"], code[2]["execution_count"] = ["pass"], [{}], 1
    code[-1]["source"] = ["pass"]
    found = list(faults(notebook))
    assert [fault.split()[-2:] for fault in found] == [
        ["its", "beginning"],
        ["title", "$t"],
        ["=", "1$"],
        ["has", "outputs"],
        ["has", "outputs"],
        ["install", RUNTIMES[0]],
        ["install", RUNTIMES[1]],
        ["asserts", "nothing"],
    ]
