"""The converter lies below the pipeline, and imports neither torch nor diffusers until a file needs them."""

import os
import subprocess
import sys
from pathlib import Path

IMPORT_ALL = """
import importlib, pkgutil, sys
import dualdiff_jax.convert as room
names = [module.name for module in pkgutil.iter_modules(room.__path__)]
assert "importer" in names and "torch_file" in names
for name in names:
    importlib.import_module(f"{room.__name__}.{name}")
import convert.__main__
print([name for name in ("torch", "diffusers", "dualdiff_jax.pipeline") if name in sys.modules])
import dualdiff_jax.pipeline.pipeline
"""


def test_no_module_imports_torch_diffusers_or_the_pipeline():
    """In a process of its own. The pipeline, which imports the converter, can still be imported after it."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.run([sys.executable, "-c", IMPORT_ALL], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"
