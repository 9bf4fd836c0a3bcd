"""The commands of docs/your_photos.md, run as they stand on forty photos with a model that is small."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your_photos.md"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
FEWER = ["--config.train.steps=3", "--config.optimizer.warmup_steps=1"]  # the page's 400 take too long for a test


def write_photos(folder: Path) -> None:
    """scikit-learn's two photos, 28 parts of them and 10 scanned digits; one has a caption of its own."""
    folder.mkdir(parents=True)
    whole = [Image.fromarray(array) for array in load_sample_images().images]
    parts = [whole[n % 2].crop((20 * n, 10 * n, 20 * n + 90, 10 * n + 60 + n)) for n in range(28)]
    digits = [Image.fromarray((15 * array).astype("uint8")) for array in load_digits().images[:10]]
    for number, image in enumerate([*whole, *parts, *digits]):
        image.save(folder / f"{number:04}.{'png' if number >= 30 else 'jpg'}")
    (folder / "0031.txt").write_text("a one\n")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if not line.startswith("pip install ")]


def walk(folder: Path, model: Path, leave_out: tuple[str, ...]) -> None:
    """Runs the page's commands in ``folder``, but for those of the modes ``leave_out``."""
    (folder / "main.py").symlink_to(ROOT / "main.py")
    (folder / "configs").symlink_to(ROOT / "configs")
    for words in commands():
        python, *rest = [
            str(model) if word == "MODEL_DIR" else word.replace("=MODEL_DIR", f"={model}") for word in words
        ]
        assert python == "python"
        if any(f"--mode={mode}" in rest for mode in leave_out):
            continue
        more = FEWER if "--mode=train" in rest else ["--steps=2"] if "--mode=generate" in rest else []
        done = subprocess.run(
            [sys.executable, *rest, *more], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, (words, done.stderr[-2000:])
