"""A training run small enough for a test, on real digits: its data, its tokenizer, its config, its step."""

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict
from PIL import Image

from configs import demo
from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.objectives.joint import Objective
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.state import TrainState
from dualdiff_jax.training.step import Step, make_step

RECORDS = 40


def write_data(root: Path, records: int = RECORDS) -> None:
    """``records`` digits as PNG files with captions.json and questions.json, and a tokenizer."""
    # Here, so that a process that reads the config alone does not wait for scikit-learn.
    from demo.data import write_tokenizer
    from demo.digits import CAPTIONS, QUESTION, WORDS, load

    digits, _ = load()
    captions, questions = [], []
    (root / "images").mkdir(parents=True)
    for index in range(records):
        path, word = f"images/{index}.png", WORDS[digits.labels[index]]
        Image.fromarray(digits.images[index]).save(root / path)
        record = {"image_path": path, "ratio": 1.0, "height": 8, "width": 8}
        asked = {"question": QUESTION, "answer": word}
        captions.append(record | asked | {"caption": CAPTIONS[0].format(word), "re_caption": CAPTIONS[1].format(word)})
        questions.append(record | asked)
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "questions.json").write_text(json.dumps(questions))
    write_tokenizer(root / "tokenizer")


def small_config(root: Path) -> ConfigDict:
    """The demo's config, shrunk, over the data in ``root``."""
    config = demo.get_config()
    config.model.mmdit.update(depth=2, width=16, heads=2)
    config.model.t5.update(width=8, depth=1, heads=2, head_dim=4, mlp_width=16)
    config.model.sampling.update(batch_size=4, image_steps=3)
    common = dict(root=str(root), height=8, width=8, weight=1.0)
    config.data.sources = [
        dict(name="images", files="captions.json", task="image_generation", **demo.TWO_CAPTIONS, **common),
        dict(name="captions", files="captions.json", task="captioning", **demo.TWO_CAPTIONS, **common),
        dict(name="questions", files="questions.json", task="instruction", **common),
    ]
    config.data.tokenizer = str(root / "tokenizer")
    config.optimizer.update(name="adamw", learning_rate=2e-3, warmup_steps=2)
    config.optimizer.schedule = "constant"  # one program for runs of any length
    config.train.update(steps=6, global_batch_size=4, log_every=2, save_every=3)
    config.preview.every = 0
    return config


def small_run(root: Path, **sections: dict) -> tuple[RunConfig, Tokenizer]:
    """Writes the data, resolves the config with ``sections`` changed, opens the tokenizer."""
    if not (root / "images").exists():
        write_data(root)
    config = small_config(root)
    for name, fields in sections.items():
        config[name].update(fields)
    return resolve(config), Tokenizer(root / "tokenizer")


def objective_of(config: RunConfig, tokenizer: Tokenizer, null_text_embeddings=None) -> Objective:
    """The objective of a run."""
    return Objective(
        config.objective,
        null_token_ids=tokenizer.null_ids(config.data.text_length),
        mask_token_id=tokenizer.mask_token_id,
        null_text_embeddings=null_text_embeddings,
    )


def step_of(config: RunConfig, tokenizer: Tokenizer, mesh: jax.sharding.Mesh) -> Step:
    """The update of a run on ``mesh``."""
    return make_step(TrainSetup(config, mesh), objective_of(config, tokenizer))


def first_state(config: RunConfig, mesh: jax.sharding.Mesh) -> tuple[TrainState, Weights]:
    """The state before the first update, and the frozen weights."""
    setup = TrainSetup(config, mesh)
    params, frozen = setup.init_params()
    return setup.init_state(params), frozen


def write_config(file: Path, root: Path, **train) -> None:
    """A config file for the command line."""
    file.write_text(
        "import pathlib\n"
        "from tests.small_run import small_config\n"
        "def get_config():\n"
        f"    config = small_config(pathlib.Path({str(root)!r}))\n"
        f"    config.train.update({train!r})\n"
        "    return config\n"
    )
