"""The launch files tell from a bucket whether a run is complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dualdiff_jax.files import as_path

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("names", "code"), [((), 75), (("weights/0",), 75), (("weights/0", "model.json"), 0)])
def test_a_pod_is_done_when_the_bucket_holds_a_model(bucket, tmp_path, names, code):
    workdir = as_path(f"{bucket.root}/{len(names)}")
    for name in names:
        (workdir / "model" / name).write_text("{}")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\n[[ $1 == -c ]] && exec {sys.executable} "$@"\nexit 0\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "docs" / "clusters" / "train.sh"), f"--workdir={workdir}"],
        env=os.environ | {"PYTHON": str(python)},
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == code
