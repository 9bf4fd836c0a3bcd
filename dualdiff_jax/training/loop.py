"""The life of a run, top to bottom.

    check -> open the data -> prepare the workdir -> restore or initialise -> step, save, log, hooks -> model folder
The loop dispatches step n before it reads the metrics of earlier steps, so the device never waits for the host.
"""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from dualdiff_jax.arrays import SeparatedWeights, Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.data.fingerprint import DataFingerprint, differences
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.distributed.process_group import broadcast_from_first, connect, first_host_first
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, check_holds_arrays, is_bucket, locked_folder
from dualdiff_jax.files.lock import Lock
from dualdiff_jax.models.bundle import check_attention, rules_of
from dualdiff_jax.objectives.joint import Objective
from dualdiff_jax.sharding import MICROBATCH, check_batch, place_batch, rules_in_force
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.encoded_data import check_encoded_data, null_text_embeddings, warn_of_changed_data
from dualdiff_jax.training.export import export_lora, export_model
from dualdiff_jax.training.flops import step_flops
from dualdiff_jax.training.initial_weights import check_init_from, random_and_frozen
from dualdiff_jax.training.interruption import Interruption
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.skipped_steps import SkippedSteps
from dualdiff_jax.training.stall_watchdog import StallWatchdog
from dualdiff_jax.training.state import TrainState
from dualdiff_jax.training.step import make_step
from dualdiff_jax.training.telemetry.recorder import Telemetry
from dualdiff_jax.training.telemetry.sinks import check_sinks
from dualdiff_jax.training.telemetry.trace import Trace
from dualdiff_jax.training.workdir import check_workdir, prepare_workdir

log = logging.getLogger(__name__)

# (step, EMA weights of the whole model) -> figures for validation.jsonl, if any
Hook = Callable[[int, SeparatedWeights], Mapping[str, float] | None]
Checks = Mapping[str, Callable[[], str | None]]


def train(config: RunConfig, workdir: str | Path, mesh: Mesh, hooks: Sequence[tuple[int, Hook]] = ()) -> Path | None:
    """Trains to ``config.train.steps``, from the newest checkpoint in ``workdir`` if there is one.

    The result is a function of the config and the data alone: a run that was stopped anywhere and started again ends
    with the same weights.

    Args:
        config: the run's.
        workdir: its folder, on a disk or in a bucket.
        mesh: all devices.
        hooks: (every, hook) pairs; a hook is called with the EMA weights after each ``every``-th step and the last.

    Returns:
        The model folder, or the LoRA's where ``lora.merge`` is off. None where a signal asked the run to stop: then its
        state is saved.

    Raises:
        UserError: the run cannot start; or too many steps in a row were not finite, and the state is saved.
    """
    workdir = as_path(workdir)
    check_holds_arrays(workdir)
    with rules_in_force(rules_of(config.mesh, config.model)):
        tokenizer = Tokenizer(config.data.tokenizer)
        setup = check(config, tokenizer, mesh)
        connect(mesh)  # before anything large is compiled
        check_workdir(workdir, config)  # before the data are opened, which may take long
        data = _open_data(config, tokenizer)
        with _faults_of_a_bucket(), locked_folder(workdir, "--workdir") as lock:
            return _train(setup, tokenizer, data, workdir, lock, hooks)


@contextlib.contextmanager
def _faults_of_a_bucket() -> Iterator[None]:
    """Raises ``UserError`` for a bucket's fault that retries did not cure; what was written before stays valid."""
    try:
        yield
    except OSError as error:
        if not is_bucket(error.filename or ""):
            raise
        raise UserError(
            f"{error.filename}: cannot be read or written ({error.strerror}); the same command continues from the last "
            "checkpoint"
        ) from error


def _train(
    setup: TrainSetup,
    tokenizer: Tokenizer,
    data: Mixture,
    workdir: Path,
    lock: Lock,
    hooks: Sequence[tuple[int, Hook]],
) -> Path | None:
    config, mesh = setup.config, setup.mesh
    prepare_workdir(workdir, config)
    data.report_to(workdir)
    checkpoints = Checkpoints(workdir, setup)
    with Interruption(mesh) as interruption, StallWatchdog(config.train.stall_seconds, workdir) as stall:
        state, frozen, unlogged_metrics = _restore_or_initialise(setup, checkpoints, data.fingerprint())
        null_embeddings = null_text_embeddings(config, mesh, frozen, tokenizer)
        objective = Objective(
            config.objective,
            null_token_ids=tokenizer.null_ids(config.data.text_length),
            mask_token_id=tokenizer.mask_token_id,
            null_text_embeddings=null_embeddings,
        )
        frozen = setup.trainable.separate(frozen)
        flops = step_flops(config, setup.trainable.specs, has_text_embeddings=null_embeddings is not None)
        telemetry = Telemetry(workdir, config, int(state.step), unlogged_metrics, step_flops=flops)
        loop = _Loop(setup, objective, workdir, lock, data, int(state.step), telemetry)
        state = loop.run(state, frozen, checkpoints, interruption, stall, hooks)
        step = int(state.step)
        is_saved = checkpoints.close(step)
    if loop.skipped.interval:
        first, last = loop.skipped.interval
        raise UserError(
            f"{workdir}: stopped, for no step from {first} to {last} had a finite loss and gradient; their records are "
            f"in skipped_steps.jsonl, and the state {'is' if is_saved else 'could not be'} saved at step {step}"
        )
    if not is_saved:
        raise UserError(f"{workdir}: step {step} could not be saved; make room, and start again with the same command")
    if step < config.train.steps:
        signal = interruption.signal or "a signal to another host"
        log.warning("%s: stopped by %s, saved at step %d; the same command continues", workdir, signal, step)
        return None
    if config.lora.rank:
        export_lora(setup, workdir / "lora", state)
        if not config.lora.merge:
            return workdir / "lora"
    return export_model(setup, workdir / "model", state, frozen, tokenizer)


def check(config: RunConfig, tokenizer: Tokenizer, mesh: Mesh) -> TrainSetup:
    """Checks what a config cannot know by itself, before any device is used.

    Returns:
        What the config means on the mesh.

    Raises:
        UserError: with all faults, one a line.
    """
    faults: list[str] = []
    setups: list[TrainSetup] = []
    for test in checks(config, tokenizer, mesh, setups).values():
        try:
            test()
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return setups[0]


def checks(config: RunConfig, tokenizer: Tokenizer, mesh: Mesh, setups: list[TrainSetup]) -> Checks:
    """The tests of ``check`` in their order, by what they look at; each raises ``UserError`` or may say what it found.

    Args:
        config: the run's.
        tokenizer: of its data.
        mesh: all devices.
        setups: an empty list, which receives what the config means on the mesh.
    """
    microbatch = config.train.global_batch_size // config.train.microbatches
    return {
        "vocabulary": lambda: _check_vocabulary(config, tokenizer),
        "attention": lambda: check_attention(config.model),
        "batch": lambda: check_batch(mesh, microbatch, MICROBATCH),
        "trained parts": lambda: setups.append(TrainSetup(config, mesh)),
        "init_from": lambda: check_init_from(config, tokenizer),
        "encoded data": lambda: check_encoded_data(config, [n for setup in setups for n in setup.trainable.specs]),
        "telemetry": lambda: check_sinks(config),
    }


def _check_vocabulary(config: RunConfig, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size != config.model.mmdit.vocab_size:
        raise UserError(
            f"model.mmdit.vocab_size is {config.model.mmdit.vocab_size}, but the tokenizer in {config.data.tokenizer} "
            f"has {tokenizer.vocab_size} tokens; give {tokenizer.vocab_size}"
        )


def _open_data(config: RunConfig, tokenizer: Tokenizer) -> Mixture:
    """This host's part of the data. The first host builds the indexes; all hosts must find the same records."""
    with first_host_first("data"):
        data = Mixture(
            config.data,
            tokenizer,
            streams=config.objective.streams,
            seed=config.seed,
            global_batch_size=config.train.global_batch_size,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        found = data.fingerprint()
        if jax.process_index() == 0:
            warn_of_changed_data(config)
    first = json.loads(broadcast_from_first("data", json.dumps(found)))
    if differ := differences(first, found):
        raise UserError(f"the data of this host differ from the first host's in {differ}; give all hosts the same data")
    return data


def _restore_or_initialise(
    setup: TrainSetup, checkpoints: Checkpoints, data: DataFingerprint
) -> tuple[TrainState, Weights, list]:
    """(state, frozen weights, metrics in no record yet), of the newest checkpoint or before the first update."""
    checkpoints.check(data)  # before the weights are read
    params, frozen = setup.init_params()
    if not checkpoints.steps():
        if random := random_and_frozen(setup.config, setup.trainable.changed_leaves):
            log.warning("%s; give --config.init_from=MODEL_DIR", random)
        return setup.init_state(params), frozen, []
    del params  # its memory is the restored state's
    state, unlogged_metrics = checkpoints.restore(data)
    return state, frozen, unlogged_metrics


class _Loop:
    """All that a run needs besides its state."""

    def __init__(
        self,
        setup: TrainSetup,
        objective: Objective,
        workdir: Path,
        lock: Lock,
        data: Mixture,
        first_step: int,
        telemetry: Telemetry,
    ):
        config = setup.config
        log.info("starting at step %d of %d", first_step, config.train.steps)
        self._config, self._mesh, self._lock = config, setup.mesh, lock
        self._data, self._first_step = data, first_step
        self._step_function = make_step(setup, objective)
        self._telemetry = telemetry
        self._trace = Trace(config.profile, workdir / "profile")
        self._full_weights = jax.jit(setup.trainable.assemble)
        self.skipped = SkippedSteps(workdir, config.train.stop_after_skipped, data.record_ids)

    def run(
        self,
        state: TrainState,
        frozen: SeparatedWeights,
        checkpoints: Checkpoints,
        interruption: Interruption,
        stall: StallWatchdog,
        hooks: Sequence[tuple[int, Hook]],
    ) -> TrainState:
        """Runs to the last step, or until a signal or too many skipped steps stop it; the state is saved then."""
        telemetry, train = self._telemetry, self._config.train
        batches = self._data.batches(self._first_step)
        for step in range(self._first_step + 1, train.steps + 1):
            with telemetry.waiting("data_wait_share"):
                batch = place_batch(self._mesh, next(batches))
            with self._trace.step(step):
                state, metrics = self._step_function(state, frozen, batch)
            self.skipped.note(step, metrics.pop("skipped_in_row"))
            stall.progress(step - 1)
            self._lock.check()
            self._trace.finished(step, state)
            telemetry.add(metrics)
            is_last = step == train.steps
            is_stopped = interruption.is_requested() or self.skipped.interval is not None
            if step % train.log_every == 0 or is_last:
                telemetry.write(step)
            if checkpoints.is_due(step) or is_last or is_stopped:
                with telemetry.waiting("save_wait_share"):
                    checkpoints.save(step, state, self._data.fingerprint(), telemetry.unlogged_metrics())
            if is_stopped and not is_last:
                break
            self._call(hooks, step, functools.partial(self._full_weights, state.ema_params, frozen))
        self.skipped.flush()
        self._trace.close()
        telemetry.close()
        return state

    def _call(self, hooks: Sequence[tuple[int, Hook]], step: int, full_weights: Callable[[], SeparatedWeights]) -> None:
        for every, hook in hooks:
            if step % every == 0 or step == self._config.train.steps:
                try:
                    values = hook(step, full_weights())
                except OSError as error:
                    log.warning("step %d: a hook cannot write its files (%s); training continues", step, error)
                else:
                    if values:
                        self._telemetry.validated(step, values)
