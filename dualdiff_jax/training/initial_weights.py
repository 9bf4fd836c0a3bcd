"""The weights that a run starts from: fresh ones, or those of a model folder that another run wrote.

MODEL_DIR/weights/   averages of the parameters (weights.py)
MODEL_DIR/raw/       the trained leaves as the last update left them
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights, key_of
from dualdiff_jax.config import ModelConfig, RunConfig
from dualdiff_jax.config.resolve import differences
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, check_holds_arrays
from dualdiff_jax.files.listing import file_sizes
from dualdiff_jax.models.bundle import init_weights, leaf_specs, weight_shardings
from dualdiff_jax.models.leaves import NETWORKS, LeafSpec, network_of
from dualdiff_jax.stored_arrays import restore, stored_leaves
from dualdiff_jax.weights import check_leaves, load_config, load_model, load_networks, misfits

RAW = "raw"

# Fields of a model's config that change no leaf and no meaning of one, so that two stages may differ in them.
FREE_TO_DIFFER = ("model.sampling.", "model.compute_dtype", "model.attention")


def initial_weights(config: RunConfig, mesh: Mesh) -> Weights:
    """All leaves of the model on ``mesh``: those of ``config.init_from``, or fresh ones by the seed."""
    if not config.init_from:
        return init_weights(config.model, mesh, key_of(config.seed))
    folder = as_path(config.init_from)
    _, weights, _ = load_model(folder, mesh)
    if config.init_weights == "raw":
        specs, shardings = leaf_specs(config.model), weight_shardings(config.model, mesh)
        names = _raw_names(folder, specs)
        weights |= restore(folder / RAW, {name: specs[name].abstract(shardings[name]) for name in names})
    return weights


def random_and_frozen(config: RunConfig, changed_leaves: Iterable[str]) -> str:
    """Which networks stay as the seed makes them, since the run starts from no model folder and trains nothing of them.

    Args:
        config: the run's.
        changed_leaves: names of the leaves that it trains.

    Returns:
        Words that name them; empty where there are none.
    """
    if config.init_from:
        return ""
    trained = {network_of(name) for name in changed_leaves}
    has_leaves = {network_of(name) for name in leaf_specs(config.model)}
    random = [network for network in NETWORKS if network in has_leaves - trained]
    return f"{' and '.join(random)}: random weights that this run does not train" if random else ""


def check_init_from(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Raises ``UserError`` unless ``config.init_from`` is empty, or a model folder that this run can start from."""
    if not config.init_from:
        return
    folder = as_path(config.init_from)
    check_holds_arrays(folder)
    missing = [network for network in NETWORKS if network not in load_networks(folder)]
    if missing:
        raise UserError(
            f"{folder}: holds no {' and no '.join(missing)}; training needs a complete model, import all of it"
        )
    changed = list(architecture_differences(load_config(folder), config.model))
    if changed:
        raise UserError(
            f"{folder}: holds another model than this config trains (it -> config):\n  " + "\n  ".join(changed)
        )
    other = Tokenizer(folder / "tokenizer")
    if other.fingerprint() != tokenizer.fingerprint():
        raise UserError(
            f"{folder}: was trained with other tokens than data.tokenizer {tokenizer.folder} has; "
            f"give --config.data.tokenizer={folder / 'tokenizer'}"
        )
    check_leaves(folder, config.model)
    if config.init_weights == "raw":
        _raw_names(folder, leaf_specs(config.model))


def architecture_differences(old: ModelConfig, new: ModelConfig) -> Iterator[str]:
    """``field: old -> new`` for each difference because of which weights of one model do not fit the other."""
    return (line for line in differences(old, new, "model") if not line.startswith(FREE_TO_DIFFER))


def init_from_fingerprint(config: RunConfig) -> str:
    """Changes when the files under ``config.init_from`` do: their names, some of them random, and their sizes."""
    sizes = file_sizes(as_path(config.init_from)) if config.init_from else {}
    listing = "\n".join(f"{name} {size}" for name, size in sizes.items())
    return hashlib.sha256(listing.encode()).hexdigest()


def _raw_names(folder: Path, specs: Mapping[str, LeafSpec]) -> list[str]:
    """The leaves in ``raw/`` of a model folder. Raises ``UserError`` where one is no leaf of ``specs``."""
    if not (folder / RAW).is_dir():
        raise UserError(f"{folder}: holds averages only, no {RAW}/; give --config.init_weights=ema")
    stored = stored_leaves(folder / RAW)
    if faults := misfits(stored, specs):
        raise UserError(f"{folder / RAW}: does not fit model.json:\n  " + "\n  ".join(faults))
    return sorted(stored)
