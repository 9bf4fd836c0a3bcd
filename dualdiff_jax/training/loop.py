"""The life of a run, top to bottom.

    claim the workdir -> open the data -> restore or initialise -> step, save, log, hooks -> model folder
The loop hands the device step n before it reads the metrics of earlier steps, so it never waits in between.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.data.mixture import Batch, Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding import batch_sharding, check_batch
from dualdiff_jax.training.checkpoint import Checkpoints, claim_workdir
from dualdiff_jax.training.state import init_state
from dualdiff_jax.training.step import make_step
from dualdiff_jax.training.telemetry import Telemetry
from dualdiff_jax.weights import save_model

log = logging.getLogger(__name__)

Hook = Callable[[int, Weights], None]  # (step, EMA weights of the whole model)


def train(config: RunConfig, workdir: str | Path, mesh: Mesh, hooks: Sequence[tuple[int, Hook]] = ()) -> Path:
    """Trains to ``config.train.steps``, from the newest checkpoint in ``workdir`` if there is one.

    ``hooks`` are (every, hook): called with the EMA weights after each ``every``-th update and the last.
    Returns the model folder. The result is a function of the config and the data alone: a run that was
    killed and started again ends with the same weights.
    """
    workdir = Path(workdir)
    tokenizer = Tokenizer(config.data.tokenizer)
    _check(config, tokenizer, mesh)
    data = Mixture(
        config.data,
        tokenizer,
        seed=config.seed,
        global_batch_size=config.train.global_batch_size,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    claim_workdir(workdir, config)
    checkpoints = Checkpoints(workdir, config, mesh)
    state, frozen = init_state(config, mesh)
    state = checkpoints.restore(data.fingerprint()) or state
    first_step, steps = int(state.step), config.train.steps
    log.info("starting at step %d of %d", first_step, steps)
    step_function = make_step(
        config,
        mesh,
        null_token_ids=tokenizer.null_ids(config.data.text_length),
        mask_token_id=tokenizer.mask_token_id,
    )
    telemetry = Telemetry(
        workdir, steps=steps, examples_per_step=2 * config.train.global_batch_size, first_step=first_step
    )
    batches = data.batches(first_step)
    for step in range(first_step + 1, steps + 1):
        state, metrics = step_function(state, frozen, _to_devices(next(batches), mesh))
        telemetry.add(metrics)
        if step % config.train.log_every == 0 or step == steps:
            telemetry.write(step)
        if step % config.train.save_every == 0 or step == steps:
            checkpoints.save(step, state, data.fingerprint())
        for every, hook in hooks:
            if step % every == 0 or step == steps:
                hook(step, state.ema_params | frozen)
    telemetry.close()
    checkpoints.close()
    save_model(workdir / "model", config.model, state.ema_params | frozen, tokenizer)
    return workdir / "model"


def _check(config: RunConfig, tokenizer: Tokenizer, mesh: Mesh) -> None:
    """What a config cannot know by itself, before any device is used."""
    if tokenizer.vocab_size != config.model.mmdit.vocab_size:
        raise UserError(
            f"model.mmdit.vocab_size is {config.model.mmdit.vocab_size}, but the tokenizer in {config.data.tokenizer} "
            f"has {tokenizer.vocab_size} tokens; give {tokenizer.vocab_size}"
        )
    check_batch(mesh, config.train.global_batch_size // config.train.microbatches, "the microbatch")


def _to_devices(batch: Batch, mesh: Mesh) -> Batch:
    """This host's rows as arrays over the whole mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
