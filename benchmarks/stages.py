"""The effect of each stage of training, on handwritten digits: figures before and after it.

    python -m benchmarks.stages --workdir=runs/stages --output=benchmarks/results/stages.json

A tiny model passes through all stages in some minutes on two CPU cores. The first stage learns captions, with a frozen
random text encoder. Then the encoder's row for the mask token is replaced by random numbers, like that of an encoder
that never saw masks, and captions fail until alignment has learned a new row. Pretraining and instruction tuning
follow. The NELBO is that of held-out captions; answers are to "which digit is this?" about held-out digits.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from benchmarks.record import circumstances, write
from demo.data import write as write_data
from demo.digits import CAPTIONS, QUESTION, WORDS, Digits, load
from dualdiff_jax.config import MeshConfig, RunConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.likelihood import Likelihood
from dualdiff_jax.files import new_folder, write_text
from dualdiff_jax.models.leaves import EMBEDDING
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.runtime import environment
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train
from dualdiff_jax.training.trainable import mask_row
from dualdiff_jax.weights import load_model, save_model

MARK = "stages.txt"  # the file by which a folder is known as one of this program's
STAGES = {  # run -> (config, the run from whose model folder it starts)
    "start": ("dual_diff_pretrain_256", None),
    "align": ("align_mask_embedding", "unaligned"),
    "pretrain": ("dual_diff_pretrain", "align"),
    "sft": ("dual_diff_sft", "pretrain"),
}


def begin(root: Path) -> None:
    """Makes a folder ``root`` with ``MARK`` alone, in the place of an earlier one.

    Raises:
        UserError: ``root`` is a file, holds other files than an earlier run's, or cannot be written.
    """
    with new_folder(root, MARK) as partial:
        write_text(partial / MARK, "benchmarks.stages writes this folder, and removes it when it begins again.\n")


def stage(root: Path, name: str) -> RunConfig:
    """The tiny config of a run under ``root``, on the data there."""
    config_name, before = STAGES[name]
    config = importlib.import_module(f"configs.tiny.{config_name}").get_config()
    data = root / "data"
    config.data.tokenizer = str(data / "tokenizer")
    config.data.sources = [{**source, "root": str(data)} for source in config.to_dict()["data"]["sources"]]
    config.init_from = str(root / before / "model") if before else ""
    held_out = dict(root=str(root / "held_out"), files="captions.json", height=8, width=8)
    config.validation.update(every=10**6, batches=8)
    config.validation.sources = [
        dict(name="held_out_images", task="image_generation", **held_out),
        dict(name="held_out_captions", task="captioning", **held_out),
    ]
    return resolve(config)


def write_held_out(folder: Path, digits: Digits) -> None:
    """Writes the digits as PNG files, with one caption each in captions.json."""
    folder.mkdir(parents=True)
    records = []
    for index, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        Image.fromarray(image).save(folder / f"{index}.png")
        caption = CAPTIONS[index % len(CAPTIONS)].format(WORDS[label])
        records.append({"image_path": f"{index}.png", "height": 8, "width": 8, "ratio": 1.0, "caption": caption})
    (folder / "captions.json").write_text(json.dumps(records))


def reset_mask_row(config: RunConfig, folder: Path, output: Path) -> Path:
    """Copies the model folder to ``output`` with a random row for the mask token; returns ``output``."""
    _, weights, tokenizer = load_model(folder, make_mesh(MeshConfig(), jax.devices()[:1]))
    row = jax.random.normal(jax.random.key(config.seed + 1), (config.model.t5.width,))
    weights[EMBEDDING] = weights[EMBEDDING].at[mask_row(config.model)].set(row)
    save_model(output, config.model, weights, tokenizer)
    return output


def judge(config: RunConfig, folder: Path, held_out: Path, digits: Digits) -> dict[str, float]:
    """Evaluates a model folder: NELBO of held-out captions in nats a token, flow loss, share of right answers."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    _, weights, tokenizer = load_model(folder, mesh)
    figures = Likelihood(config, tokenizer, mesh)(0, weights)
    pipeline = DualDiffusionPipeline(config.model, weights, tokenizer)
    files = [held_out / f"{index}.png" for index in range(len(digits.labels))]
    answers = pipeline.answer(files, [QUESTION] * len(files))
    right = [answer == WORDS[label] for answer, label in zip(answers, digits.labels, strict=True)]
    return {
        "text_nelbo": figures["text_loss"],
        "image_loss": figures["image_loss"],
        "answer_accuracy": float(np.mean(right)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/stages"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/stages.json"))
    options = parser.parse_args()
    root = options.workdir
    try:
        begin(root)
    except UserError as error:
        sys.exit(f"error: {error}")
    environment.prepare()
    write_data(root / "data")
    _, digits = load()
    write_held_out(root / "held_out", digits)
    figures = {}
    for name in STAGES:
        config = stage(root, name)
        folder = train(config, root / name, make_mesh(config.mesh, jax.devices()[:1]))
        figures[name] = judge(config, folder, root / "held_out", digits) | {"steps": config.train.steps}
        print(name, figures[name], flush=True)
        if name == "start":
            folder = reset_mask_row(config, folder, root / "unaligned" / "model")
            figures["unaligned"] = judge(config, folder, root / "held_out", digits)
            print("unaligned", figures["unaligned"], flush=True)
    found = {"held_out": len(digits.labels), "after": figures}
    write(circumstances(1, ("jax", "flax", "optax")) | found, options.output)


if __name__ == "__main__":
    main()
