"""Writes a model folder with a LoRA inside its kernels."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dualdiff_jax.convert.leaf_writer import LeafWriter
from dualdiff_jax.convert.lora_terms import Term, change, scaled_factors
from dualdiff_jax.convert.output import check_apart, check_output
from dualdiff_jax.files import as_path, check_holds_arrays
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import layers_of
from dualdiff_jax.progress import Progress
from dualdiff_jax.stored_arrays import read_leaves
from dualdiff_jax.weights import DESCRIPTION, check_leaves, load_config, load_networks, load_tokenizer, new_model_folder


def merge_lora(
    model: str | Path,
    loras: Sequence[tuple[Sequence[Term], float]],
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes the model that ``model`` is with some LoRAs; one leaf is in memory at a time.

    Args:
        model: a model folder; its averages are read.
        loras: the terms of each, and a factor on them.
        output: the model folder to write.
        overwrite: whether to replace a folder that exists.
        progress: called with (bytes written, bytes in all).

    Returns:
        ``output``.

    Raises:
        UserError: ``output`` exists (without ``overwrite``), cannot be written or holds ``model``, or ``model`` is
            damaged. On a disk ``output`` may be ``model`` itself.
    """
    model, output = as_path(model), as_path(output)
    check_holds_arrays(output)
    check_apart(output, [model], may_equal=True)
    config, networks = load_config(model), load_networks(model)
    stored, specs = check_leaves(model, config), leaf_specs(config, networks)
    dtypes = {leaf: np.dtype(stored[leaf].dtype) for leaf in specs}
    written, total = 0, sum(math.prod(spec.shape) * dtypes[leaf].itemsize for leaf, spec in specs.items())
    check_output(output, DESCRIPTION, total, overwrite)
    factors = scaled_factors(loras, specs)
    with (
        new_model_folder(output, config, load_tokenizer(model), networks) as folder,
        LeafWriter(folder / "weights", specs, dtypes) as writer,
    ):
        for leaf, spec in specs.items():
            array = read_leaves(model / "weights", {leaf: stored[leaf]})[leaf]
            for index, layer in enumerate(layers_of(spec)):
                kernel = array if layer is None else array[layer]
                pair = factors[leaf][index] if leaf in factors else None
                if pair is not None:
                    kernel = (kernel.astype(np.float32) + change(pair, spec)).astype(dtypes[leaf])
                writer.write(leaf, layer, kernel)
                written += kernel.nbytes
                if progress is not None:
                    progress(written, total)
    return output
