"""The life of a run, top to bottom.

    check -> open the data -> claim the workdir -> restore or start -> step, save, log, hooks -> model folder
The loop hands the device step n before it reads the metrics of earlier steps, so it never waits in between.
"""

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.distributed.process_group import broadcast_from_first, first_host_first
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.sharding import check_batch, place_batch
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.encoded_data import check_stored, null_text_embeddings
from dualdiff_jax.training.initial_weights import RAW, check_start
from dualdiff_jax.training.interruption import Interruption
from dualdiff_jax.training.skipped_steps import SkippedSteps
from dualdiff_jax.training.stall_watchdog import StallWatch
from dualdiff_jax.training.state import TrainState, init_params, init_state
from dualdiff_jax.training.step import make_step
from dualdiff_jax.training.telemetry.recorder import Telemetry
from dualdiff_jax.training.telemetry.sinks import check_sinks
from dualdiff_jax.training.telemetry.trace import Trace
from dualdiff_jax.training.trainable import assemble, changed_leaves, trained_specs
from dualdiff_jax.training.workdir import prepare_workdir
from dualdiff_jax.weights import new_model_folder, save_arrays

log = logging.getLogger(__name__)

# (step, EMA weights of the whole model) -> figures for validation.jsonl, if any
Hook = Callable[[int, Weights], Mapping[str, float] | None]


def train(config: RunConfig, workdir: str | Path, mesh: Mesh, hooks: Sequence[tuple[int, Hook]] = ()) -> Path | None:
    """Trains to ``config.train.steps``, from the newest checkpoint in ``workdir`` if there is one.

    ``hooks`` are (every, hook): called with the EMA weights after each ``every``-th step and the last.
    Returns the model folder, or None where a signal asked the run to stop: then it is saved. The result is a
    function of the config and the data alone: a run that was stopped anywhere and started again ends with the
    same weights. Raises ``UserError`` where it cannot start, and, saved, where too many steps were not finite.
    """
    workdir = Path(workdir)
    tokenizer = Tokenizer(config.data.tokenizer)
    check(config, tokenizer, mesh)
    data = _open_data(config, tokenizer)
    prepare_workdir(workdir, config)
    data.report_to(workdir)
    checkpoints = Checkpoints(workdir, config, mesh)
    with Interruption(mesh) as interruption, StallWatch(config.train.stall_seconds, workdir) as stall:
        state, frozen, pending = _begin(config, mesh, checkpoints, data.fingerprint())
        null = null_text_embeddings(config, mesh, frozen, tokenizer)
        loop = _Loop(config, workdir, mesh, tokenizer, data, int(state.step), pending, null)
        state = loop.run(state, frozen, checkpoints, interruption, stall, hooks)
        step = int(state.step)
        is_saved = checkpoints.close(step)
    if loop.skipped.interval:
        first, last = loop.skipped.interval
        raise UserError(
            f"{workdir}: stopped, for no step from {first} to {last} had a finite loss and gradient; what they read is "
            f"in skipped_steps.jsonl, and the state {'is' if is_saved else 'could not be'} saved at step {step}"
        )
    if not is_saved:
        raise UserError(f"{workdir}: step {step} could not be saved; make room, and start again with the same command")
    if step < config.train.steps:
        signal = interruption.signal or "a signal to another host"
        log.warning("%s: stopped by %s, saved at step %d; the same command goes on", workdir, signal, step)
        return None
    return _export(config, workdir / "model", state, frozen, tokenizer)


def _open_data(config: RunConfig, tokenizer: Tokenizer) -> Mixture:
    """This host's part. The first host makes the index; each has to find the same records."""
    with first_host_first("data"):
        data = Mixture(
            config.data,
            tokenizer,
            seed=config.seed,
            global_batch_size=config.train.global_batch_size,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
    first, found = json.loads(broadcast_from_first("data", json.dumps(data.fingerprint()))), data.fingerprint()
    if found != first:
        raise UserError(
            f"the data of this host has {found} records, that of the first host {first}; give all the same data"
        )
    return data


def check(config: RunConfig, tokenizer: Tokenizer, mesh: Mesh) -> None:
    """What a config cannot know by itself, before any device is used; one ``UserError`` with all faults."""
    faults = []
    microbatch = config.train.global_batch_size // config.train.microbatches
    for test in (
        lambda: _check_vocabulary(config, tokenizer),
        lambda: check_batch(mesh, microbatch, "the microbatch"),
        lambda: trained_specs(config),
        lambda: check_start(config, tokenizer),
        lambda: check_stored(config),
        lambda: check_sinks(config),
    ):
        try:
            test()
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def _check_vocabulary(config: RunConfig, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size != config.model.mmdit.vocab_size:
        raise UserError(
            f"model.mmdit.vocab_size is {config.model.mmdit.vocab_size}, but the tokenizer in {config.data.tokenizer} "
            f"has {tokenizer.vocab_size} tokens; give {tokenizer.vocab_size}"
        )


def _begin(
    config: RunConfig, mesh: Mesh, checkpoints: Checkpoints, records: dict[str, int]
) -> tuple[TrainState, Weights, list]:
    """(state, frozen weights, metrics that are not told yet): of the newest checkpoint, or of the start."""
    params, frozen = init_params(config, mesh)
    if not checkpoints.steps():
        return init_state(config, mesh, params), frozen, []
    del params  # the memory is the restored state's
    state, pending = checkpoints.restore(records)
    return state, frozen, pending


class _Loop:
    """What a run needs beside its state."""

    def __init__(
        self,
        config: RunConfig,
        workdir: Path,
        mesh: Mesh,
        tokenizer: Tokenizer,
        data: Mixture,
        first_step: int,
        pending: list,
        null_text_embeddings: np.ndarray | None,
    ):
        log.info("starting at step %d of %d", first_step, config.train.steps)
        self._config, self._mesh, self._data, self._first_step = config, mesh, data, first_step
        self._step_function = make_step(
            config,
            mesh,
            null_token_ids=tokenizer.null_ids(config.data.text_length),
            mask_token_id=tokenizer.mask_token_id,
            null_text_embeddings=null_text_embeddings,
        )
        self._telemetry = Telemetry(workdir, config, first_step, pending)
        self._trace = Trace(config.profile, workdir / "profile")
        self.skipped = SkippedSteps(workdir, config.train.stop_after_skipped, data.record_ids)

    def run(
        self,
        state: TrainState,
        frozen: Weights,
        checkpoints: Checkpoints,
        interruption: Interruption,
        stall: StallWatch,
        hooks: Sequence[tuple[int, Hook]],
    ) -> TrainState:
        """To the last step, or to the one at which a signal or too many skipped steps end it; it is saved then."""
        telemetry, train = self._telemetry, self._config.train
        batches = self._data.batches(self._first_step)
        for step in range(self._first_step + 1, train.steps + 1):
            with telemetry.waiting("data"):
                batch = place_batch(self._mesh, next(batches))
            with self._trace.step(step):
                state, metrics = self._step_function(state, frozen, batch)
            self.skipped.note(step, metrics.pop("skipped_in_row"))
            stall.progress(step - 1)
            self._trace.finished(step, state)
            telemetry.add(metrics)
            is_last = step == train.steps
            is_stopped = interruption.is_asked() or self.skipped.interval is not None
            if step % train.log_every == 0 or is_last:
                telemetry.write(step)
            if checkpoints.is_due(step) or is_last or is_stopped:
                with telemetry.waiting("save"):
                    checkpoints.save(step, state, self._data.fingerprint(), telemetry.pending())
            if is_stopped:
                break
            self._call(hooks, step, state, frozen)
        self.skipped.flush()
        self._trace.close()
        telemetry.close()
        return state

    def _call(self, hooks: Sequence[tuple[int, Hook]], step: int, state: TrainState, frozen: Weights) -> None:
        for every, hook in hooks:
            if step % every == 0 or step == self._config.train.steps:
                try:
                    values = hook(step, full_weights(self._config, state.ema_params, frozen))
                except OSError as error:
                    log.warning("step %d: what a hook makes cannot be written (%s); training goes on", step, error)
                else:
                    if values:
                        self._telemetry.validated(step, values)


@functools.partial(jax.jit, static_argnums=0)
def full_weights(config: RunConfig, params: Weights, frozen: Weights) -> Weights:
    """The model's weights."""
    return assemble(config, params, frozen)


def _export(config: RunConfig, folder: Path, state: TrainState, frozen: Weights, tokenizer: Tokenizer) -> Path:
    """Writes the model folder: averages, and beside them what the last update left."""
    try:
        with new_model_folder(folder, config.model, tokenizer) as partial:
            save_arrays(partial / "weights", full_weights(config, state.ema_params, frozen))
            raw = full_weights(config, state.params, frozen)
            save_arrays(partial / RAW, {name: raw[name] for name in changed_leaves(config)})
    except UserError:
        raise
    except Exception as error:  # file systems raise many kinds
        raise UserError(
            f"{folder}: cannot be written ({reason(error)}); make room, then the same command writes it"
        ) from error
    return folder
