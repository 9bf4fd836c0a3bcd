"""Checkpoints of a run, through Orbax: written in the background, whole or not at all, restored onto any mesh.

    WORKDIR/checkpoints/N/state   the TrainState after N steps, sharded
    WORKDIR/checkpoints/N/run     the data's position, fingerprints of the data and init_from, config and versions
Mounts fail, disks fill up, power is cut. A save that fails on any host is reported and tried again soon by all; a
checkpoint that cannot be read is reported, and the one before it is used.
"""

import contextlib
import logging
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from dualdiff_jax.data.fingerprint import DataFingerprint, differences
from dualdiff_jax.distributed.process_group import barrier
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import free_bytes, move, remove
from dualdiff_jax.files.probe import probe
from dualdiff_jax.json_files import read_object
from dualdiff_jax.runtime.checksums import checked_arrays, fault
from dualdiff_jax.runtime.failed_transfers import silence_failed_transfers
from dualdiff_jax.training.half_written import DESCRIPTION, half_written, irregular, is_step
from dualdiff_jax.training.initial_weights import init_from_fingerprint
from dualdiff_jax.training.run_item import check_run_item, run_item, versions
from dualdiff_jax.training.save_agreement import SaveAgreement
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.state import TrainState
from dualdiff_jax.training.workdir import check_same_config

log = logging.getLogger(__name__)

RETRIES = 10  # a failed save is tried again after the interval between saves, divided by this


def check_steps(folder: Path, steps: Sequence[int], last: int) -> None:
    """Raises ``UserError`` where one of the ``steps`` that have a checkpoint in ``folder`` lies beyond ``last``."""
    for step in steps:
        if step > last:
            raise UserError(
                f"{folder / str(step)}: lies beyond train.steps {last}, so it is not of this run; move it away, or "
                "start in another workdir"
            )


class Checkpoints:
    """The ``checkpoints/`` folder of a workdir.

    Args:
        workdir: the run's folder.
        setup: what a checkpoint is restored onto, and the config that it belongs to.
    """

    def __init__(self, workdir: Path, setup: TrainSetup):
        self._workdir, self._setup, self._config = workdir, setup, setup.config
        self._folder = workdir / "checkpoints"
        self._init_from = init_from_fingerprint(self._config)
        self._checked: int | None = None  # the step whose checkpoint is known to belong to this run
        self._retry_at: int | None = None
        self._tried_at = 0  # the step of the last save
        self._agreement = SaveAgreement()
        silence_failed_transfers()
        self._clear()
        self._manager = self._open()

    def _clear(self) -> None:
        """Removes what a killed or a failed save left half written, and what Orbax cannot even list."""
        if jax.process_index() == 0:
            for partial in half_written(self._folder):
                remove(partial)  # threads of the failed save may still write there
            for folder in self._folder.glob("*"):
                if is_step(folder.name):
                    self._mend(folder)
        barrier("half written checkpoints are gone")

    def _mend(self, folder: Path) -> None:
        """Sets aside what would block a reader, and removes a description of the checkpoint that is none."""
        if stranger := irregular(folder):
            self._move_aside(folder, f"{stranger} is no regular file")
        elif (description := folder / DESCRIPTION).exists():
            try:
                read_object(description)
            except UserError as error:
                log.warning("%s; it only describes the checkpoint, and is removed", error)
                remove(description)

    def _open(self) -> ocp.CheckpointManager:
        train = self._config.train
        return ocp.CheckpointManager(
            self._folder.absolute(),
            item_handlers={"state": checked_arrays(), "run": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=train.keep_checkpoints,
                keep_period=train.keep_every or None,
                enable_async_checkpointing=True,
                async_options=ocp.options.AsyncOptions(
                    barrier_sync_fn=self._agreement.wait if jax.process_count() > 1 else None
                ),
            ),
        )

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def is_saving(self) -> bool:
        """Whether something is being written in the background."""
        return self._manager.is_saving_in_progress()

    def is_due(self, step: int) -> bool:
        """Whether to save after ``step``: at each interval, and soon after a failed save."""
        if not self.is_saving():
            self._wait()  # returns at once
        # Several hosts learn of each other's failures at the same steps, a tenth of the interval apart.
        if jax.process_count() == 1 or (step - self._tried_at) % self._patience == 0:
            self._give_up_if_failed(self._agreement.failure(), step + self._patience)
        return step % self._config.train.save_every == 0 or step == self._retry_at

    def save(self, step: int, state: TrainState, data: DataFingerprint, unlogged_metrics: Sequence = ()) -> None:
        """Saves in the background, unless there is a checkpoint of ``step`` already.

        Args:
            step: steps that ``state`` has seen.
            state: is copied to the host before this returns.
            data: its fingerprint.
            unlogged_metrics: metrics of steps that are in no record yet.
        """
        self._wait()
        self._give_up_if_failed(self._agreement.failure_of_all(), step)
        if step in self.steps():
            return
        self._tried_at = step
        if self._retry_at is not None:
            self._clear()
            self._retry_at = None
        if jax.process_count() > 1:  # a host that fails inside Orbax keeps the others waiting there
            self._look_for_room(state)
            if why := self._agreement.failure_of_all():
                self._agreement.give_up()
                return self._put_off(why, step + self._patience)
        run = run_item(step, self._config, data, self._init_from, unlogged_metrics)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(run))
        try:
            self._manager.save(step, args=items)
        except Exception as error:  # file systems raise many kinds
            self._agreement.report(reason(error))
            if jax.process_count() == 1:
                self._give_up_if_failed(self._agreement.failure(), step + self._patience)

    def close(self, step: int) -> bool:
        """Waits for what is being written; returns whether ``step`` has a checkpoint then."""
        self._wait()
        self._give_up_if_failed(self._agreement.failure_of_all(), None)
        self._manager.close()
        return step in self.steps()

    @property
    def _patience(self) -> int:
        """Steps from a failed save to the next try."""
        return max(1, self._config.train.save_every // RETRIES)

    def _wait(self) -> None:
        """Waits for what this host is writing, and reports a failure."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._agreement.report(reason(error))

    def _look_for_room(self, state: TrainState) -> None:
        """Reports that this host cannot write, or that the first sees no room for ``state``."""
        try:
            probe(self._workdir)
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            if jax.process_index() == 0 and free_bytes(self._workdir) <= size:
                self._agreement.report("there is no room")
        except OSError as error:
            self._agreement.report(reason(error))

    def _give_up_if_failed(self, why: str, retry_at: int | None) -> None:
        """If ``why`` says that a checkpoint could not be written, training goes on without it."""
        if not why:
            return
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        with contextlib.suppress(Exception):
            self._manager.close()
        self._agreement.give_up()
        self._manager = self._open()
        self._put_off(why, retry_at)

    def _put_off(self, why: str, retry_at: int | None) -> None:
        self._retry_at = retry_at
        kept = f"the last good one is of step {self.steps()[-1]}" if self.steps() else "there is none before it"
        goes_on = "" if retry_at is None else f"; training goes on, and the next try is at step {retry_at}"
        log.warning("%s: a checkpoint cannot be written (%s); %s%s", self._folder, why, kept, goes_on)

    def check(self, data: DataFingerprint) -> None:
        """Checks that the newest checkpoint belongs to this run, without reading any weights.

        Args:
            data: its fingerprint.

        Raises:
            UserError: as ``restore``.
        """
        check_steps(self._folder, self.steps(), self._config.train.steps)
        for step in reversed(self.steps()):
            run = self._read(step, {}, run=ocp.args.JsonRestore())
            if run is not None:
                self._check(step, run, data)
                self._checked = step
                return

    def restore(self, data: DataFingerprint) -> tuple[TrainState, list]:
        """Restores the newest state that can be read.

        Damaged checkpoints newer than it are reported and moved to ``damaged_checkpoints/``.

        Args:
            data: its fingerprint.

        Returns:
            The state on the mesh, and the metrics that were in no record yet.

        Raises:
            UserError: no checkpoint can be read, or the checkpoint belongs to another config, to other data or to
                another ``init_from``, or lies beyond the run's last step.
        """
        check_steps(self._folder, self.steps(), self._config.train.steps)
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            run = self._read(step, damaged, run=ocp.args.JsonRestore())
            if run is None:
                continue
            if step != self._checked:
                self._check(step, run, data)
            target = self._setup.abstract_state
            arguments = ocp.checkpoint_utils.construct_restore_args(target)
            state = self._read(step, damaged, state=ocp.args.PyTreeRestore(target, restore_args=arguments))
            if state is not None:
                self._set_aside(damaged, step)
                return state, run["pending"]
        raise UserError(
            f"{self._folder}: no checkpoint can be read; bring one back, or start in another workdir\n  "
            + "\n  ".join(f"step {step}: {why}" for step, why in damaged.items())
        )

    def _read(self, step: int, damaged: dict[int, str], **item: Any) -> Any:
        """One item of a checkpoint; None, with the reason in ``damaged``, if any host cannot read it."""
        found, why = None, "another host cannot read it"
        try:
            read = self._manager.restore(step, args=ocp.args.Composite(**item))[next(iter(item))]
            found = check_run_item(read, step) if "run" in item else read
        except Exception as error:  # Orbax and TensorStore raise many kinds, all of which mean unreadable files
            why = fault(error)
        if jax.process_count() > 1 and not multihost_utils.process_allgather(np.array(found is not None)).all():
            found = None
        if found is None:
            damaged[step] = why
        return found

    def _check(self, step: int, run: dict[str, Any], data: DataFingerprint) -> None:
        check_same_config(self._workdir, f"checkpoint of step {step}", run["config"], self._config)
        if changed := differences(run["records"], data):
            if not self._config.data.allow_changed:
                raise UserError(
                    f"the data changed since step {step}: {changed}; restore the data, start in another workdir, or "
                    "give --config.data.allow_changed=True to go on with the data as they are now"
                )
            log.warning("the data changed since step %d: %s; training goes on with them", step, changed)
        if run["start"] != self._init_from:
            raise UserError(
                f"{self._config.init_from}: is not the model folder that this run started from; "
                "restore it, or start in another workdir"
            )
        if run["versions"] != versions():
            log.warning("step %d was computed with %s, now %s: rounding may differ", step, run["versions"], versions())

    def _move_aside(self, folder: Path, why: str) -> None:
        log.warning("checkpoint of step %s is damaged (%s) and moved to damaged_checkpoints/", folder.name, why)
        if jax.process_index() == 0:
            name = f"{folder.name}-{uuid.uuid4().hex[:8]}"  # the same step may be damaged twice
            move(folder, self._workdir / "damaged_checkpoints" / name)

    def _set_aside(self, damaged: dict[int, str], used: int) -> None:
        for step, why in damaged.items():
            self._move_aside(self._folder / str(step), why)
        if damaged:
            log.warning("training continues from the checkpoint of step %d", used)
            barrier("damaged checkpoints are set aside")
            self._manager.reload()
