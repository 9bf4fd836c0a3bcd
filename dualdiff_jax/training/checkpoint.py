"""Checkpoints of a run: state, data position and fingerprint, through Orbax; and the workdir's own config."""

import json
from pathlib import Path

import orbax.checkpoint as ocp
from jax.sharding import Mesh

from dualdiff_jax.config import RunConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.resolution import differences, resolve, to_dict
from dualdiff_jax.training.state import TrainState, abstract_state

# Fields that may differ when a run goes on: none of them changes what is learned.
FREE_TO_CHANGE = (
    "train.log_every",
    "train.save_every",
    "train.keep_checkpoints",
    "preview.",
    "mesh.",
    "data.read_threads",
    "data.prefetch_batches",
    "data.cache_images",
)


class Checkpoints:
    """The ``checkpoints/`` folder of a workdir. Saves run in the background; ``close`` waits for them."""

    def __init__(self, workdir: Path, config: RunConfig, mesh: Mesh):
        self._config, self._mesh = config, mesh
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.train.keep_checkpoints, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, fingerprint: dict[str, int]) -> None:
        """Saves in the background, unless there is a checkpoint of ``step`` already."""
        if self.latest() == step:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave({"next_step": step, "records": fingerprint}),
        )
        self._manager.save(step, args=items)

    def restore(self, fingerprint: dict[str, int]) -> TrainState | None:
        """The newest state, or None when there is none. Refuses to go on over another data set."""
        step = self.latest()
        if step is None:
            return None
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state(self._config, self._mesh)), data=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=items)
        if found.data["records"] != fingerprint:
            raise UserError(
                f"the data changed since step {step}: it had {found.data['records']} records, now {fingerprint}; "
                "restore the data, or start in another workdir"
            )
        return found.state

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def claim_workdir(workdir: Path, config: RunConfig) -> None:
    """Makes ``workdir`` this config's own, or raises ``UserError`` with the differences if it is another's."""
    file = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
            return
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(f"{workdir}: may not be written ({error.strerror}); choose another --workdir") from error
    try:
        old = resolve(json.loads(file.read_text(encoding="utf-8")), what=f"config in {file}")
    except ValueError as error:
        raise UserError(
            f"{file}: cannot be read as this version's config; start in another --workdir\n{error}"
        ) from error
    changed = [line for line in differences(old, config) if not line.startswith(FREE_TO_CHANGE)]
    if changed:
        raise UserError(
            f"{workdir}: belongs to a run with another config; name another --workdir, or undo\n  "
            + "\n  ".join(changed)
        )
