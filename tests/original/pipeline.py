"""Loads the original's own pipeline from a checkout, unpatched."""

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

COMMIT = "bbf06bf8a55ba5c6cf07c41502552eaa6d9e155c"
SHA256 = {  # of the files that sampling runs, at that commit
    "dual_diff_pipeline.py": "b7343ba61f53f082c99ccfbcefe1652fe1de37b28cc243f42ce2af7d302ca046",
    "sd3_model.py": "e9151739f93fd8fc8cc1d1c51403b9a55406703199da8bd65d5014663ab9d683",
}
OPERATORS = ("nms", "qnms")  # whose presence torchvision's import expects


def original_class() -> Any:
    """The class ``DualDiffSD3Pipeline`` of the checkout that the variable ORIGINAL names."""
    checkout = Path(os.environ.get("ORIGINAL", "")).absolute()
    for name, digest in SHA256.items():
        file = checkout / "sd3_modules" / name
        if not file.is_file():
            pytest.fail(f"{file} is missing; give ORIGINAL=DIR, a checkout of zijieli-Jlee/Dual-Diffusion at {COMMIT}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            pytest.fail(f"{file} differs from commit {COMMIT}; check out that commit")
    import_torchvision()
    sys.path.insert(0, str(checkout))
    from sd3_modules.dual_diff_pipeline import DualDiffSD3Pipeline  # pyright: ignore[reportMissingImports]

    return DualDiffSD3Pipeline


def import_torchvision() -> None:
    """Imports torchvision, whose transforms the original names.

    Its wheel for CUDA cannot load its operators beside torch's CPU build and then fails at import. Sampling uses none
    of them, so that their declaration is enough.
    """
    with contextlib.suppress(RuntimeError):
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]

        return
    library = torch.library.Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_torchvision.library = library  # it has to live as long as its operators  # pyright: ignore
    import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
