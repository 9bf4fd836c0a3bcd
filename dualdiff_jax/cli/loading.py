"""The model of a command: its calls are rehearsed without its weights, whose reading takes minutes."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.diffusers_folder import INDEX_FILE
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.files import as_path
from dualdiff_jax.hub import download, is_hub_name
from dualdiff_jax.pipeline.devices import in_words
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.pipeline.rehearsal import Rehearsal, Rehearsed
from dualdiff_jax.weights import is_model_folder, load_config, load_tokenizer, with_dtype

Found = TypeVar("Found")


def call_model(
    model: str, dtype: str | None, t5_bits: int | None, call: Callable[[DualDiffusionPipeline], Found]
) -> Found:
    """Loads a model and calls it. Faults of the call's arguments are found before the weights are read.

    Args:
        model: as in ``sample.generate``, like ``dtype`` and ``t5_bits``.
        dtype: of the model.
        t5_bits: of T5.
        call: makes one call of the pipeline; it is made twice, the first time without weights (``rehearse``).

    Returns:
        What ``call`` returns.

    Raises:
        UserError: the model cannot be loaded, or the call cannot use an argument.
    """
    path = local_model(model)
    rehearse(path, dtype, call)
    return call(load(path, dtype, t5_bits))


def local_model(model: str) -> str:
    """The folder of a model; one on the hub is downloaded. Raises ``UserError`` where that cannot be."""
    return str(download(model)) if is_hub_name(model) else model


def load(model: str, dtype: str | None, t5_bits: int | None) -> DualDiffusionPipeline:
    """The model on all devices of all processes; says on stderr how it lies on them where there are several.

    Args:
        model: as in ``sample.generate``, like ``dtype`` and ``t5_bits``.
        dtype: of the model.
        t5_bits: of T5.

    Returns:
        The pipeline.

    Raises:
        UserError: the model cannot be loaded.
    """
    pipeline = DualDiffusionPipeline.from_pretrained(model, dtype=dtype, t5_bits=t5_bits)
    if jax.device_count() > 1 and is_first_host():
        print(in_words(pipeline.mesh), file=sys.stderr)
    return pipeline


def is_first_host() -> bool:
    """Whether this process writes and prints the results, which all processes have."""
    return jax.process_index() == 0


def rehearse(model: str, dtype: str | None, *calls: Callable[[DualDiffusionPipeline], Any]) -> None:
    """Makes calls of a model up to where each would compute, which is after all its arguments are checked.

    Args:
        model: a model folder, or a diffusers folder, of which the config and the tokenizer are read.
        dtype: of the model.
        calls: each makes one call of the pipeline.

    Raises:
        UserError: the folder is no model, a call cannot use an argument, or the attention's kernel does not run here.
    """
    pipeline = _RehearsedPipeline(*_described(model, dtype))
    for call in calls:
        with contextlib.suppress(Rehearsed):
            call(pipeline)


def _described(model: str, dtype: str | None) -> tuple[ModelConfig, Tokenizer]:
    """Config and tokenizer, as ``DualDiffusionPipeline.from_pretrained`` finds them."""
    path = as_path(model)
    if not is_model_folder(path) and (path / INDEX_FILE).is_file():
        found = Import(path, dtype=dtype)
        return found.config, found.tokenizer
    return with_dtype(load_config(path), dtype), load_tokenizer(path)


class _RehearsedPipeline(Rehearsal, DualDiffusionPipeline):
    """A pipeline without weights."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer):
        super().__init__(config, {"none": jnp.zeros(())}, tokenizer)
