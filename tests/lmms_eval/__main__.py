"""``python tests/lmms_eval ARGUMENTS``: the command line of lmms-eval, where torchvision may be the wheel for CUDA.

The loader is found by its file: packages that lmms-eval needs bring a package named ``tests`` of their own.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("pipeline", Path(__file__).parents[1] / "original" / "pipeline.py")
assert spec and spec.loader
loader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loader)
loader.import_torchvision()
sys.path.pop(0)  # this folder's name is lmms-eval's
runpy.run_module("lmms_eval", run_name="__main__")
