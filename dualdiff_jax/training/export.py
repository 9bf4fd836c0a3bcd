"""What a run writes at its end: the model folder, and a LoRA."""

from pathlib import Path

import jax
import numpy as np

from dualdiff_jax.arrays import SeparatedWeights
from dualdiff_jax.convert.lora_file import DIFFUSERS_FILE
from dualdiff_jax.convert.lora_keys import lora_rules
from dualdiff_jax.convert.lora_terms import Term, cut
from dualdiff_jax.convert.lora_writer import write_lora
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.distributed.process_group import barrier
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import layers_of
from dualdiff_jax.models.lora import layer_factors
from dualdiff_jax.models.separated import stacked_weights
from dualdiff_jax.sharding import replicated
from dualdiff_jax.stored_arrays import save_arrays
from dualdiff_jax.training.initial_weights import RAW
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.state import TrainState
from dualdiff_jax.training.trainable import MASK_ROW
from dualdiff_jax.weights import new_model_folder


def export_model(
    setup: TrainSetup, folder: Path, state: TrainState, frozen: SeparatedWeights, tokenizer: Tokenizer
) -> Path:
    """Writes a model folder.

    Args:
        setup: the run's.
        folder: where; an older folder of that name is replaced.
        state: its averages become ``weights/``; the trained leaves as the last update left them become ``raw/``.
        frozen: the weights that are not trained.
        tokenizer: the model's.

    Returns:
        ``folder``.

    Raises:
        UserError: the folder cannot be written.
    """
    full_weights = jax.jit(setup.trainable.assemble)
    try:
        with new_model_folder(folder, setup.config.model, tokenizer) as partial:
            weights = full_weights(state.ema_params, frozen)
            save_arrays(partial / "weights", stacked_weights(setup.config.model, weights))
            del weights
            raw = full_weights(state.params, frozen)
            save_arrays(partial / RAW, {name: raw[name] for name in setup.trainable.changed_leaves})
    except UserError:
        raise
    except Exception as error:  # file systems raise many kinds
        raise UserError(
            f"{folder}: cannot be written ({reason(error)}); make room, then the same command writes it"
        ) from error
    return folder


def export_lora(setup: TrainSetup, folder: Path, state: TrainState) -> Path:
    """Writes the factors alone, in diffusers' format; the first host writes.

    Args:
        setup: the run's, with low-rank factors.
        folder: where; an older file there is replaced.
        state: its averages are written.

    Returns:
        ``folder``.

    Raises:
        UserError: the file cannot be written.
    """
    config, specs = setup.config, leaf_specs(setup.config.model)
    factors = {name: value for name, value in state.ema_params.items() if name not in specs and name != MASK_ROW}
    gather = jax.jit(lambda params: params, out_shardings=replicated(setup.mesh))
    params = {name: np.asarray(value) for name, value in gather(factors).items()}
    if jax.process_index() == 0:
        rules, terms = lora_rules(config.model, "diffusers"), list[Term]()
        for name in setup.trainable.lora_targets:
            pairs = layer_factors(name, specs[name], params, config.lora.rank)
            for layer, pair in zip(layers_of(specs[name]), pairs, strict=True):
                terms += cut(rules[name, layer], pair, config.lora.alpha, specs[name])
        write_lora(folder / DIFFUSERS_FILE, terms, config.model, overwrite=True)
    barrier(f"{folder.name} done")
    return folder
