"""The model folder that a run writes at its end."""

from pathlib import Path

import jax

from dualdiff_jax.arrays import Weights
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.training.initial_weights import RAW
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.state import TrainState
from dualdiff_jax.weights import new_model_folder, save_arrays


def export_model(setup: TrainSetup, folder: Path, state: TrainState, frozen: Weights, tokenizer: Tokenizer) -> Path:
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
            save_arrays(partial / "weights", full_weights(state.ema_params, frozen))
            raw = full_weights(state.params, frozen)
            save_arrays(partial / RAW, {name: raw[name] for name in setup.trainable.changed_leaves})
    except UserError:
        raise
    except Exception as error:  # file systems raise many kinds
        raise UserError(
            f"{folder}: cannot be written ({reason(error)}); make room, then the same command writes it"
        ) from error
    return folder
