"""A model folder: all that is needed to load a model, and nothing that is needed to train it.

    MODEL_DIR/model.json     format version and the resolved ModelConfig
    MODEL_DIR/tokenizer/     T5 tokenizer
    MODEL_DIR/weights/       the arrays, sharded, written and restored by Orbax
The folder appears under its name only when it is complete.
"""

import json
import os
import shutil
import uuid
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs, weight_shardings
from dualdiff_jax.resolution import resolve, to_dict

FORMAT, VERSION = "dualdiff_jax model", 1


def save_model(folder: str | Path, config: ModelConfig, weights: Weights, tokenizer: Tokenizer) -> None:
    """Writes a model folder. An older one of that name is replaced, at the last moment."""
    folder = Path(folder).absolute()
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / "weights", weights)
        tokenizer.save(partial / "tokenizer")
        description = {"format": FORMAT, "version": VERSION, "config": to_dict(config)}
        (partial / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            old = folder.with_name(f"{partial.name}-old")
            os.rename(folder, old)
            os.rename(partial, folder)
            shutil.rmtree(old)
        else:
            os.rename(partial, folder)
    except PermissionError as error:
        raise UserError(f"{folder}: may not be written ({error.strerror}); choose another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_config(folder: str | Path) -> ModelConfig:
    """The ModelConfig of a model folder; ``UserError`` where the folder is none, damaged, or of a newer format."""
    folder = Path(folder)
    file = folder / "model.json"
    if not file.is_file():
        raise UserError(f"{folder}: is no model folder, for it has no model.json; name the folder that training wrote")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        version, config = description["version"], description["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is damaged ({error!r}); copy the model folder anew") from error
    if version != VERSION:
        raise UserError(
            f"{file}: has format version {version}, this program reads {VERSION}; install a release that reads it"
        )
    return resolve(config, ModelConfig, what=f"config in {file}")


def load_model(folder: str | Path, mesh: Mesh) -> tuple[ModelConfig, Weights, Tokenizer]:
    """Config, weights on ``mesh`` (each device reads only its shards) and tokenizer of a model folder."""
    folder = Path(folder)
    config = load_config(folder)
    tokenizer = Tokenizer(folder / "tokenizer")
    if tokenizer.vocab_size != config.mmdit.vocab_size:
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens and its model scores "
            f"{config.mmdit.vocab_size}; they do not belong together"
        )
    shardings = weight_shardings(config, mesh)
    target = {name: spec.abstract(shardings[name]) for name, spec in leaf_specs(config).items()}
    return config, restore(folder / "weights", target), tokenizer


def restore(folder: Path, target: dict[str, jax.ShapeDtypeStruct]) -> Weights:
    """Arrays saved under ``folder`` onto the shapes and shardings of ``target``; ``UserError`` on any misfit."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is missing; the model folder is incomplete, copy it anew")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder.absolute(), target)
    except Exception as error:  # Orbax and TensorStore raise many kinds, all of which mean unreadable arrays
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder}: cannot be read ({reason}); copy the model folder anew") from error
