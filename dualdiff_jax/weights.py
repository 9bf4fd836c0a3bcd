"""A model folder: everything that loading a model needs, and nothing that only training needs.

    MODEL_DIR/model.json     format version, names of the networks, what pads prompts, and the resolved ModelConfig
    MODEL_DIR/tokenizer/     T5 tokenizer
    MODEL_DIR/weights/       the arrays, sharded, written and restored by Orbax
The folder gets its name only when it is complete; in a bucket it counts once it has model.json, which is written last.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.published import D_DIT_2B
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.tokenizer import END_TOKEN, Tokenizer
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import as_path, check_holds_arrays, new_folder
from dualdiff_jax.json_files import checked, field, read_object
from dualdiff_jax.models.bundle import leaf_specs, weight_shardings
from dualdiff_jax.models.leaves import NETWORKS, LeafSpec
from dualdiff_jax.stored_arrays import restore, save_arrays, stored_leaves

FORMAT, VERSION = "dualdiff_jax model", 1
DESCRIPTION = "model.json"  # is written last


def save_model(folder: str | Path, config: ModelConfig, weights: Weights, tokenizer: Tokenizer) -> None:
    """Writes a complete model folder.

    Args:
        folder: the path to write. A folder that exists is replaced once the new one is complete.
        config: of the model.
        weights: every leaf of all networks, by name.
        tokenizer: of the model.

    Raises:
        UserError: the disk is full, this process may not write there, or no arrays can be kept there.
    """
    with new_model_folder(folder, config, tokenizer) as partial:
        save_arrays(partial / "weights", weights)


@contextlib.contextmanager
def new_model_folder(
    folder: str | Path, config: ModelConfig, tokenizer: Tokenizer, networks: Sequence[str] = NETWORKS
) -> Iterator[Path]:
    """A folder that becomes a model folder when the context ends without an error.

    Args:
        folder: the final path. A folder that exists there is replaced at the end.
        config: of the model.
        tokenizer: of the model.
        networks: the networks whose arrays the caller writes.

    Yields:
        The folder under a temporary name; the caller writes the arrays into its ``weights/``.

    Raises:
        UserError: the disk is full, or this process may not write there.
    """
    check_holds_arrays(folder)
    with new_folder(folder, DESCRIPTION) as partial:
        yield partial
        if jax.process_index() != 0:
            return
        tokenizer.save(partial / "tokenizer")
        description = {"format": FORMAT, "version": VERSION, "networks": list(networks)}
        description["pad_token"] = tokenizer.pad_token
        description["config"] = _without_absent(to_dict(config), networks)
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def is_model_folder(folder: str | Path) -> bool:
    """Whether ``folder`` has a ``model.json``."""
    return (as_path(folder) / DESCRIPTION).is_file()


def load_config(folder: str | Path) -> ModelConfig:
    """The ModelConfig of a model folder.

    A network that the folder lacks gets the sizes of the published model, except for the fields that the other
    networks fix.

    Raises:
        UserError: ``folder`` is not a model folder, is damaged, or has another format version.
    """
    description = _description(as_path(folder))
    file = as_path(folder) / DESCRIPTION
    sections = {
        name: checked(value, dict, f"{file}: config: {name}") if name in NETWORKS else value
        for name, value in description["config"].items()
    }
    for network in set(NETWORKS) - set(description["networks"]):
        sections[network] = {**D_DIT_2B[network], **sections.get(network, {})}
    return resolve(sections, ModelConfig, what=f"config in {file}")


def load_networks(folder: str | Path) -> tuple[str, ...]:
    """The networks that a model folder holds, a subset of ``NETWORKS``. Raises ``UserError`` as ``load_config``."""
    return tuple(_description(as_path(folder))["networks"])


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder, which pads as the model does. Raises ``UserError`` as ``load_config``."""
    return Tokenizer(as_path(folder) / "tokenizer", _description(as_path(folder))["pad_token"])


def _description(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    if not file.exists():
        is_diffusers = (folder / "model_index.json").exists()
        advice = "convert it with python -m convert import" if is_diffusers else "name the folder that training wrote"
        raise UserError(f"{folder}: is no model folder, it has no model.json; {advice}")
    try:
        # older folders hold all networks and pad with </s>, and say neither
        description = {"networks": list(NETWORKS), "pad_token": END_TOKEN} | read_object(file)
        if description.get("format", FORMAT) != FORMAT:
            raise UserError(f"{file}: format: found {quoted(description['format'])}, expected {FORMAT!r}")
        version = field(description, "version", int, str(file))
        if version == VERSION:
            field(description, "config", dict, str(file))
            field(description, "pad_token", str, str(file))
            for network in field(description, "networks", list, str(file)):
                if network not in NETWORKS:
                    raise UserError(
                        f"{file}: networks: found {quoted(network)}, expected some of {', '.join(NETWORKS)}"
                    )
    except UserError as error:
        raise UserError(f"{error}; copy the model folder again") from error
    if version != VERSION:
        raise UserError(
            f"{file}: has format version {version}, this program reads {VERSION}; install a release that reads it"
        )
    return description


def _without_absent(sections: dict[str, Any], networks: Sequence[str]) -> dict[str, Any]:
    """The config's sections; a network outside ``networks`` keeps only the fields that the others depend on."""
    shared = {"mmdit": ("vocab_size",)}
    if "mmdit" in networks:
        shared = {"t5": ("width",), "autoencoder": ("kind", "channels")}
    absent = [network for network in NETWORKS if network not in networks]
    return sections | {
        network: {field: sections[network][field] for field in shared.get(network, ())} for network in absent
    }


def load_model(folder: str | Path, mesh: Mesh, dtype: str | None = None) -> tuple[ModelConfig, Weights, Tokenizer]:
    """Reads a model folder; each device reads only its shards.

    Args:
        folder: a model folder. One that was imported from some components lacks whole networks.
        mesh: where to place the weights, by the sharding rules in force.
        dtype: ``"float32"`` or ``"bfloat16"``, for the weights and the computation; None keeps both as stored.

    Returns:
        The config, the weights (by leaf name; without the leaves of absent networks) and the tokenizer.

    Raises:
        UserError: the folder is damaged, its parts do not fit together, or ``dtype`` is unknown.
    """
    folder = as_path(folder)
    check_holds_arrays(folder)
    config = load_config(folder)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size != config.mmdit.vocab_size:
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens and its model scores "
            f"{config.mmdit.vocab_size}; copy both from the same model"
        )
    stored, specs = check_leaves(folder, config), leaf_specs(config, load_networks(folder))
    config = with_dtype(config, dtype)
    shardings = weight_shardings(config, mesh)
    target = {
        name: jax.ShapeDtypeStruct(spec.shape, dtype or stored[name].dtype, sharding=shardings[name])
        for name, spec in specs.items()
    }
    return config, restore(folder / "weights", target), tokenizer


def check_leaves(folder: Path, config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Compares the names and shapes of the stored arrays with those of the model, without reading the arrays.

    Args:
        folder: a model folder.
        config: its own.

    Returns:
        Leaf name -> stored shape and dtype.

    Raises:
        UserError: an array is missing, has another shape or no place in the model, or the folder cannot be read.
    """
    stored, specs = stored_leaves(folder / "weights"), leaf_specs(config, load_networks(folder))
    faults = [f"{name}: is missing" for name in specs if name not in stored]
    faults += misfits(stored, specs)
    if faults:
        raise UserError(f"{folder / 'weights'}: does not fit model.json:\n  " + "\n  ".join(faults))
    return stored


def misfits(stored: Mapping[str, jax.ShapeDtypeStruct], specs: Mapping[str, LeafSpec]) -> list[str]:
    """A line for each stored array that has no place in the model of ``specs``, or another shape there."""
    faults = [f"{name}: has no place in this model" for name in stored if name not in specs]
    return faults + [
        f"{name}: has shape {stored[name].shape}, expected {spec.shape}"
        for name, spec in specs.items()
        if name in stored and stored[name].shape != spec.shape
    ]


def with_dtype(config: ModelConfig, dtype: str | None) -> ModelConfig:
    """``config`` with ``compute_dtype`` set to ``dtype``, unless that is None.

    Raises:
        UserError: ``dtype`` is neither float32 nor bfloat16.
    """
    if dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"dtype is {dtype!r}; give 'float32' or 'bfloat16'")
    return config if dtype is None else dataclasses.replace(config, compute_dtype=dtype)
