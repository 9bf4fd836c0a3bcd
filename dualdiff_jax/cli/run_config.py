"""The config that the flags name, with the model of ``init_from`` where the file names none of its own."""

from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import flags

from dualdiff_jax.cli import arguments
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path
from dualdiff_jax.models.leaves import NETWORKS
from dualdiff_jax.weights import load_config


def run_config() -> RunConfig:
    """The resolved config of --config.

    Raises:
        UserError: there is none, or it has faults.
    """
    given = arguments.CONFIG.value
    if given is None:
        raise UserError(f"--mode={arguments.MODE.value} needs --config=FILE")
    if not isinstance(given, ml_collections.ConfigDict):
        file = flags.FLAGS["config"].config_filename  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"{file}: cannot be loaded; name a config file such as configs/demo.py")
    return resolve(with_base(given.to_dict()))


def with_base(given: dict[str, Any]) -> dict[str, Any]:
    """A config that has no network of its own takes what it leaves out from the model folder ``init_from``.

    Args:
        given: a config as nested dicts.

    Returns:
        ``given`` as it is where it has a network; else with the folder's ``model`` under its own fields, the folder's
        tokenizer, and the model's image size for each source that has none.

    Raises:
        UserError: the config has neither a network nor ``init_from``, or that is no model folder.
    """
    model, data = given.get("model"), given.get("data")
    if not isinstance(model, Mapping) or not isinstance(data, Mapping) or any(model.get(name) for name in NETWORKS):
        return given
    if not given.get("init_from"):
        raise UserError("the config has no model; give --config.init_from=MODEL_DIR, the model to start from")
    folder = as_path(given["init_from"])
    base = to_dict(load_config(folder))
    size = {name: base["sampling"][name] for name in ("height", "width")}
    sources = [{**size, **source} if isinstance(source, Mapping) else source for source in data.get("sources") or ()]
    tokenizer = data.get("tokenizer") or str(folder / "tokenizer")
    return given | {"model": _over(base, model), "data": {**data, "sources": sources, "tokenizer": tokenizer}}


def _over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the fields of ``changes`` in place of its own, section by section."""
    merged = dict(base)
    for name, value in changes.items():
        below = merged.get(name)
        merged[name] = _over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
