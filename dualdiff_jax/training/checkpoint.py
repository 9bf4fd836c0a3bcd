"""Checkpoints of a run, through Orbax: written in the background, whole or not at all, restored onto any mesh.

    WORKDIR/checkpoints/N/state   the TrainState after N steps, sharded
    WORKDIR/checkpoints/N/run     the data's position and records, the start's identity, config and versions
What a mount, a full disk or a power cut can do to them is expected: a save that fails is told, and tried again soon;
a checkpoint that cannot be read is told, and the one before is used.
"""

import contextlib
import importlib.metadata
import logging
import platform
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.distributed.process_group import barrier, wait_for_all
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import free_bytes, move, remove
from dualdiff_jax.training.initial_weights import start_identity
from dualdiff_jax.training.state import TrainState, abstract_state
from dualdiff_jax.training.workdir import check_same_config

log = logging.getLogger(__name__)

VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
RETRIES = 10  # a save that failed is tried again after this part of the interval between saves


class Checkpoints:
    """The ``checkpoints/`` folder of a workdir. ``close`` waits for what is being written."""

    def __init__(self, workdir: Path, config: RunConfig, mesh: Mesh):
        self._workdir, self._config, self._mesh = workdir, config, mesh
        self._identity = start_identity(config)
        self._retry_at: int | None = None
        self._has_failed = False  # in the background, on this host of several
        for library in ("absl", "asyncio"):  # a save that fails is told here in a line, not there in a hundred
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self._clear()
        self._open()

    def _clear(self) -> None:
        """Removes what a kill, or a save that failed, has left half written."""
        if jax.process_index() == 0:
            for partial in (self._workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
                remove(partial)  # threads of the save that failed may still write there
        barrier("half written checkpoints are gone")

    def _open(self) -> None:
        train = self._config.train
        self._manager = ocp.CheckpointManager(
            (self._workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=train.keep_checkpoints,
                keep_period=train.keep_every or None,
                enable_async_checkpointing=True,
                async_options=ocp.options.AsyncOptions(barrier_sync_fn=self._meet if jax.process_count() > 1 else None),
            ),
        )

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Orbax's threads of all hosts wait for each other here.

        One that could not write comes too, on its way out (``finally``), but to another place than the others, and
        all would wait for twenty minutes: it has to leave instead, and be heard of in ``is_due``.
        """
        if (failure := sys.exception()) is not None:
            self._has_failed = True
            raise failure
        wait_for_all(key, timeout_ms)

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def is_saving(self) -> bool:
        """Whether something is being written in the background."""
        return self._manager.is_saving_in_progress()

    def is_due(self, step: int) -> bool:
        """Whether to save after ``step``: at each interval, and soon after a save that failed."""
        if self._has_failed or not self.is_saving():
            self._wait(step)  # for nothing; it tells what went wrong in the background
        return step % self._config.train.save_every == 0 or step == self._retry_at

    def save(self, step: int, state: TrainState, records: dict[str, int], pending: Sequence = ()) -> None:
        """Saves in the background, unless there is a checkpoint of ``step`` already.

        ``records`` is the data's fingerprint, ``pending`` the metrics of steps that are in no record yet.
        """
        if step in self.steps():
            return
        if self._retry_at is not None:
            self._clear()
            self._retry_at = None
        if jax.process_count() > 1 and not self._has_room(state):
            return self._put_off(step, "there is no room")
        run = {"next_step": step, "records": records, "start": self._identity, "pending": list(pending)}
        run |= {"config": to_dict(self._config), "versions": versions()}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        try:
            self._manager.save(step, args=items)
        except Exception as error:  # of this save or of the one before; file systems raise many kinds
            self._give_up(step, error)

    def close(self, step: int) -> bool:
        """Waits for what is being written; whether there is a checkpoint of ``step`` then."""
        self._wait(step)
        self._manager.close()
        return step in self.steps()

    def _wait(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._give_up(step, error)

    def _has_room(self, state: TrainState) -> bool:
        """Whether the first host sees room for ``state``: what several hosts agree on before any of them writes."""
        free = free_bytes(self._workdir)
        is_enough = free > sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        return bool(multihost_utils.broadcast_one_to_all(np.array(is_enough)))

    def _give_up(self, step: int, error: Exception) -> None:
        """Training goes on without the checkpoint that could not be written.

        Not so on several hosts, of which one may have failed while others wait for it inside of Orbax: the run ends.
        """
        folder = self._workdir / "checkpoints"
        if jax.process_count() > 1:
            raise UserError(f"{folder}: cannot be written ({reason(error)}); make room, and start again") from error
        with contextlib.suppress(Exception):
            self._manager.close()
        self._open()
        self._put_off(step, reason(error))

    def _put_off(self, step: int, why: str) -> None:
        self._retry_at = step + max(1, self._config.train.save_every // RETRIES)
        kept = f"the last good one is of step {self.steps()[-1]}" if self.steps() else "there is none before it"
        log.warning(
            "%s: a checkpoint cannot be written (%s); %s; training goes on, and the next try is at step %d",
            self._workdir / "checkpoints",
            why,
            kept,
            self._retry_at,
        )

    def restore(self, records: dict[str, int]) -> tuple[TrainState, list]:
        """The newest state that can be read, and what was pending with it.

        Damaged checkpoints newer than it are told and moved to ``damaged_checkpoints/``. Raises ``UserError`` where
        none can be read, and where the checkpoint is of another config, other data or another start.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            run = self._read(step, damaged, run=ocp.args.JsonRestore())
            if run is None:
                continue
            self._check(step, run, records)
            target = abstract_state(self._config, self._mesh)
            state = self._read(step, damaged, state=ocp.args.StandardRestore(target))
            if state is not None:
                self._set_aside(damaged, step)
                return state, run["pending"]
        folder = self._workdir / "checkpoints"
        raise UserError(
            f"{folder}: no checkpoint can be read; bring one back, or start in another workdir\n  "
            + "\n  ".join(f"step {step}: {why}" for step, why in damaged.items())
        )

    def _read(self, step: int, damaged: dict[int, str], **item: Any) -> Any:
        """One item of a checkpoint; None, with the reason in ``damaged``, where some host cannot read it."""
        found, why = None, "another host cannot read it"
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**item))[next(iter(item))]
        except Exception as error:  # Orbax and TensorStore raise many kinds, all of which mean unreadable files
            why = reason(error)
        if jax.process_count() > 1 and not multihost_utils.process_allgather(np.array(found is not None)).all():
            found = None
        if found is None:
            damaged[step] = why
        return found

    def _check(self, step: int, run: dict[str, Any], records: dict[str, int]) -> None:
        check_same_config(self._workdir, f"checkpoint of step {step}", run["config"], self._config)
        if run["records"] != records:
            raise UserError(
                f"the data changed since step {step}: it had {run['records']} records, now {records}; "
                "restore the data, or start in another workdir"
            )
        if run["start"] != self._identity:
            raise UserError(
                f"{self._config.init_from}: is not the model folder that this run started from; "
                "restore it, or start in another workdir"
            )
        if run["versions"] != versions():
            log.warning("step %d was computed with %s, now %s: rounding may differ", step, run["versions"], versions())

    def _set_aside(self, damaged: dict[int, str], used: int) -> None:
        for step, why in damaged.items():
            log.warning("checkpoint of step %d is damaged (%s) and moved to damaged_checkpoints/", step, why)
            if jax.process_index() == 0:
                aside = self._workdir / "damaged_checkpoints"
                name = f"{step}-{uuid.uuid4().hex[:8]}"  # the same step may be damaged twice
                move(self._workdir / "checkpoints" / str(step), aside / name)
        if damaged:
            log.warning("going on from the checkpoint of step %d", used)
            barrier("damaged checkpoints are set aside")
            self._manager.reload()


def versions() -> dict[str, str]:
    """Of what decides the bits of a result."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONED}
