"""The demo with its data, its workdir and its model in a bucket computes what it does on a disk, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dualdiff_jax.files import as_path
from dualdiff_jax.files.appended import LineLog
from dualdiff_jax.files.bucket_path import file_system
from dualdiff_jax.weights import load_model

RECORDS = 100
ROOT = Path(__file__).parents[2]
CONFIG = """
import sys
sys.path.insert(0, {root!r})
from configs import demo
demo.DATA = {data!r}
def get_config():
    config = demo.get_config()
    config.train.update(steps={steps}, save_every={save_every}, log_every=1)
    config.optimizer.warmup_steps = 4
    config.preview.every = 0
    return config
"""
TIMES = (
    "seconds",
    "per_second",
    "mfu",
    "tflops",
    "time",
    "wait",
    "eta",
    "memory",
)  # parts of the names of times


def main(folder: Path, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def trained(folder: Path, data: str, workdir: str, steps: int) -> tuple[list, dict]:
    """Trains from ``data`` in ``workdir``; returns (what every step logged but for times, the model's weights)."""
    config = folder / "config.py"
    config.write_text(CONFIG.format(root=str(ROOT), data=data, steps=steps, save_every=steps // 2))
    main(folder, "--mode=train", f"--config={config}", f"--workdir={workdir}")
    lines = LineLog(as_path(workdir) / "metrics.jsonl").read().splitlines()
    records = [
        {name: value for name, value in json.loads(line).items() if not any(part in name for part in TIMES)}
        for line in lines
    ]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), ("data", "fsdp", "tensor", "context"))
    return records, jax.tree.map(np.asarray, load_model(f"{workdir}/model", mesh)[1])


def keep_few(data: Path) -> None:
    """Leaves the first ``RECORDS`` records of each list, and their images."""
    kept = set()
    for file in data.glob("*.json"):
        records = json.loads(file.read_text())[:RECORDS]
        file.write_text(json.dumps(records))
        kept |= {record["image_path"] for record in records}
    for image in data.rglob("*.png"):
        if str(image.relative_to(data)) not in kept:
            image.unlink()


@pytest.mark.slow
def test_the_demo_in_a_bucket_is_the_demo_on_a_disk(bucket, tmp_path):
    local, away = tmp_path / "local", tmp_path / "away"
    local.mkdir(), away.mkdir()
    subprocess.run([sys.executable, "-m", "demo.data", f"--output={tmp_path / 'data'}"], cwd=ROOT, check=True)
    keep_few(tmp_path / "data")
    file_system("gs").put(f"{tmp_path / 'data'}/", f"{bucket.root}/data/", recursive=True)
    records, weights = trained(local, str(tmp_path / "data"), str(local / "run"), 40)
    records_away, weights_away = trained(away, f"{bucket.root}/data", f"{bucket.root}/run", 40)
    assert len(records) == len(records_away) == 40
    for record, found in zip(records, records_away, strict=True):
        assert {name: (value, found.get(name)) for name, value in record.items() if found.get(name) != value} == {}
    assert weights.keys() == weights_away.keys()
    for name, leaf in weights.items():
        np.testing.assert_array_equal(weights_away[name], leaf, err_msg=name)
    assert sorted(path.name for path in away.iterdir()) == ["config.py"]
    drawn = []
    for folder, root in ((local, str(local)), (away, bucket.root)):
        flags = ("--prompt=a handwritten two", "--steps=4", "--seed=3", f"--output={root}/drawn")
        main(folder, "--mode=generate", f"--model={root}/run/model", *flags)
        drawn.append([path.read_bytes() for path in sorted(as_path(f"{root}/drawn").glob("*.png"))])
    assert drawn[0] == drawn[1] and drawn[0]
