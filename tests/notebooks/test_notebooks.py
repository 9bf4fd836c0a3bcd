"""Each notebook runs from its first cell to its last, whose assertions hold what its text says.

The model is the demo's where there is one, else a small one that is trained for seconds. Executed copies that are worth
a look lie in runs/notebooks, from where make docs takes them.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.small_run import write_config, write_data

pytestmark = pytest.mark.notebooks

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEED_NO_MODEL = {"under_the_hood"}
NEEDED = ("main.py", "configs", "convert", "demo", "dualdiff_jax", "notebooks")
DEMO = ROOT / "runs" / "demo" / "model"
EXECUTED = ROOT / "runs" / "notebooks"
SECONDS = 900  # that a cell may take


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder that looks like a checkout in which ``make demo`` has run; nothing is written beside the real one."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in NEEDED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "runs" / "demo").mkdir(parents=True)
    (folder / "runs" / "demo" / "model").symlink_to(DEMO if has_demo() else small_model(folder))
    return folder


def has_demo() -> bool:
    return (DEMO / "model.json").is_file()


def small_model(folder: Path) -> Path:
    """A model folder, trained on forty digits for some seconds."""
    write_config(folder / "small.py", folder / "small", steps=300, global_batch_size=16, save_every=300)
    write_data(folder / "small")
    command = [sys.executable, "main.py", "--mode=train", "--config=small.py", "--workdir=runs/small", "--quiet"]
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    return folder / "runs" / "small" / "model"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_and_its_checks_hold(file, checkout):
    notebook = nbformat.read(file, as_version=4)
    place = {"metadata": {"path": str(checkout)}}
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    assert "all of it holds" in notebook.cells[-1].outputs[-1].text
    if file.stem in NEED_NO_MODEL or has_demo():
        EXECUTED.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, EXECUTED / file.name)
