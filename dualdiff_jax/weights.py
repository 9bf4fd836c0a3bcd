"""A model folder: all that is needed to load a model, and nothing that is needed to train it.

    MODEL_DIR/model.json     format version, the networks that are there, and the resolved ModelConfig
    MODEL_DIR/tokenizer/     T5 tokenizer
    MODEL_DIR/weights/       the arrays, sharded, written and restored by Orbax
The folder appears under its name only when it is complete.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.published import D_DIT_2B
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import new_folder
from dualdiff_jax.models.bundle import leaf_specs, weight_shardings
from dualdiff_jax.models.leaves import NETWORKS

FORMAT, VERSION = "dualdiff_jax model", 1

# What may be in flight while a model is read: its largest leaf, as float32 if it is stored so, and some more.
WIDENED, SPARE_GB = 2, 1


def save_model(folder: str | Path, config: ModelConfig, weights: Weights, tokenizer: Tokenizer) -> None:
    """Writes a model folder. An older one of that name is replaced, at the last moment."""
    with new_model_folder(folder, config, tokenizer) as partial:
        save_arrays(partial / "weights", weights)


def save_arrays(folder: Path, weights: Weights) -> None:
    """What ``restore`` reads. ``folder`` must not exist."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), weights)


@contextlib.contextmanager
def new_model_folder(
    folder: str | Path, config: ModelConfig, tokenizer: Tokenizer, networks: Sequence[str] = NETWORKS
) -> Iterator[Path]:
    """Gives a folder to write the arrays of ``networks`` into, as ``weights/``; then it becomes a model folder."""
    with new_folder(folder) as partial:
        yield partial
        if jax.process_index() != 0:
            return
        tokenizer.save(partial / "tokenizer")
        description = {"format": FORMAT, "version": VERSION, "networks": list(networks)}
        description["config"] = _known(to_dict(config), networks)
        (partial / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def is_model_folder(folder: str | Path) -> bool:
    return (Path(folder) / "model.json").is_file()


def load_config(folder: str | Path) -> ModelConfig:
    """The ModelConfig of a model folder; ``UserError`` where the folder is none, damaged, or of a newer format.

    Of a network that is not there, the sizes are the published model's but for what the others know of it.
    """
    description = _description(Path(folder))
    sections = dict(description["config"])
    for network in set(NETWORKS) - set(description["networks"]):
        sections[network] = {**D_DIT_2B[network], **sections.get(network, {})}
    return resolve(sections, ModelConfig, what=f"config in {Path(folder) / 'model.json'}")


def load_networks(folder: str | Path) -> tuple[str, ...]:
    """Which of ``NETWORKS`` a model folder holds."""
    return tuple(_description(Path(folder))["networks"])


def _description(folder: Path) -> dict[str, Any]:
    file = folder / "model.json"
    if not file.is_file():
        raise UserError(f"{folder}: is no model folder, for it has no model.json; name the folder that training wrote")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        version, _, _ = description["version"], dict(description["config"]), set(description.get("networks", ()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is damaged ({error!r}); copy the model folder anew") from error
    if version != VERSION:
        raise UserError(
            f"{file}: has format version {version}, this program reads {VERSION}; install a release that reads it"
        )
    return {"networks": NETWORKS} | description  # older folders do not say it


def _known(sections: dict[str, Any], networks: Sequence[str]) -> dict[str, Any]:
    """The config's sections; of an absent network only what the MMDiT and the tokenizer have to know of it."""
    known = {"mmdit": ("vocab_size",)}
    if "mmdit" in networks:
        known = {"t5": ("width",), "autoencoder": ("kind", "channels")}
    absent = [network for network in NETWORKS if network not in networks]
    return sections | {
        network: {field: sections[network][field] for field in known.get(network, ())} for network in absent
    }


def load_model(folder: str | Path, mesh: Mesh, dtype: str | None = None) -> tuple[ModelConfig, Weights, Tokenizer]:
    """Config, weights on ``mesh`` (each device reads only its shards) and tokenizer of a model folder.

    ``dtype``: what the weights become and what the model computes in; None keeps both as they were stored.
    Whole networks may be missing in an import of some components; their leaves are then absent.
    """
    folder = Path(folder)
    config = load_config(folder)
    tokenizer = Tokenizer(folder / "tokenizer")
    if tokenizer.vocab_size != config.mmdit.vocab_size:
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens and its model scores "
            f"{config.mmdit.vocab_size}; they do not belong together"
        )
    stored, specs = stored_leaves(folder / "weights"), leaf_specs(config, load_networks(folder))
    if stored.keys() != specs.keys():
        faults = [f"{name}: is missing" for name in specs if name not in stored]
        faults += [f"{name}: has no place in this model" for name in stored if name not in specs]
        raise UserError(f"{folder / 'weights'}: does not fit model.json:\n  " + "\n  ".join(faults))
    config = with_dtype(config, dtype)
    shardings = weight_shardings(config, mesh)
    target = {
        name: jax.ShapeDtypeStruct(spec.shape, dtype or stored[name].dtype, sharding=shardings[name])
        for name, spec in specs.items()
    }
    return config, restore(folder / "weights", target), tokenizer


def with_dtype(config: ModelConfig, dtype: str | None) -> ModelConfig:
    """The same model, computing in ``dtype``; None changes nothing."""
    if dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"dtype is {dtype!r}; give 'float32' or 'bfloat16'")
    return config if dtype is None else dataclasses.replace(config, compute_dtype=dtype)


def stored_leaves(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every array under ``folder``, by leaf name; nothing large is read."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is missing; the model folder is incomplete, copy it anew")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.metadata(folder.absolute()).item_metadata.tree
        return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in tree.items()}
    except Exception as error:  # see _restore
        raise UserError(f"{folder}: cannot be read ({reason(error)}); copy the model folder anew") from error


def read_leaf(folder: Path, name: str, stored: jax.ShapeDtypeStruct) -> np.ndarray:
    """One array under ``folder``, whole and on the host."""
    item = {name: np.broadcast_to(np.zeros((), stored.dtype), stored.shape)}
    return _restore(folder, item, {name: ocp.RestoreArgs(restore_type=np.ndarray)})[name]


def restore(folder: Path, target: dict[str, jax.ShapeDtypeStruct]) -> Weights:
    """The arrays under ``folder`` that ``target`` names, in its dtypes and shardings; ``UserError`` on any misfit."""
    return _restore(folder, target, ocp.checkpoint_utils.construct_restore_args(target))


def _restore(folder: Path, item: dict, arguments: dict) -> dict:
    largest = max(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in item.values())
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=math.ceil(WIDENED * largest / 1e9) + SPARE_GB)
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            wanted = ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
            return checkpointer.restore(folder.absolute(), args=wanted)
    except Exception as error:  # Orbax and TensorStore raise many kinds, all of which mean unreadable arrays
        raise UserError(f"{folder}: cannot be read ({reason(error)}); copy the model folder anew") from error
