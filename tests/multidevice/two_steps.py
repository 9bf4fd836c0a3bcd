"""Two training steps from one state on any number of devices; states, metrics and placements are written to files.

    python -m tests.multidevice.two_steps FOLDER
makes them on one device and on eight, then loads on eight devices what one has saved. It does not need eight
processors: XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight devices on any machine.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dualdiff_jax.config import MeshConfig, RunConfig
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.sharding import make_mesh, place_batch
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.state import TrainState
from dualdiff_jax.weights import load_model, save_model
from tests.small_run import first_state, small_run, step_of

MANY = 8
STEPS = 2
RECORDS = {"some source": 40}
Arrays = dict[str, np.ndarray]
Placements = dict[str, dict[str, list]]  # name -> shape, spec (mesh axes of each dim) and shard (shape on each device)


def settings(folder: Path) -> tuple[RunConfig, Tokenizer]:
    return small_run(
        folder / "data",
        model={"mmdit": {"depth": 1}},
        train={"steps": 5, "global_batch_size": MANY},
        optimizer={"warmup_steps": 0, "schedule": "constant", "learning_rate": 1e-3},
    )


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:devices])


def draw_batch(config: RunConfig, tokenizer: Tokenizer, step: int) -> Batch:
    rng = np.random.default_rng(step)
    length = config.data.text_length
    streams = []
    for _ in range(2):
        image = rng.uniform(-1, 1, (MANY, 8, 8, 3)).astype(np.float32)
        token_ids = rng.integers(2, tokenizer.mask_token_id, (MANY, length)).astype(np.int32)
        streams.append({"image": image, "token_ids": token_ids, "is_answer": rng.random((MANY, length)) < 0.8})
    return Batch(*streams)


def random_state(config: RunConfig, mesh: jax.sharding.Mesh) -> tuple[TrainState, Arrays]:
    """A state whose parameters are all random, so that no gate or head is zero, and the frozen weights."""
    state, frozen = first_state(config, mesh)
    rng = np.random.default_rng(0)
    specs = leaf_specs(config.model)
    drawn = {name: 0.1 * rng.standard_normal(specs[name].shape).astype(np.float32) for name in sorted(state.params)}
    params, ema_params = (
        {name: jax.device_put(drawn[name], value.sharding) for name, value in state.params.items()} for _ in range(2)
    )
    return dataclasses.replace(state, params=params, ema_params=ema_params), frozen


def run(folder: Path, devices: int) -> tuple[Arrays, Placements]:
    """Makes both steps, and saves the last state in FOLDER/<devices>, as a checkpoint and as a model folder.

    Returns:
        Metrics, moments, parameters and averages after each step; and the placements of the last state, of the frozen
        weights and of the last batch.
    """
    config, tokenizer = settings(folder)
    mesh = mesh_of(devices)
    state, frozen = random_state(config, mesh)
    step_function = step_of(config, tokenizer, mesh)
    found, batch = {}, None
    for step in range(1, STEPS + 1):
        batch = place_batch(mesh, draw_batch(config, tokenizer, step))
        state, metrics = step_function(state, frozen, batch)
        found |= flat(state, f"step {step}: ") | {
            f"step {step}: metrics {n}": np.asarray(v) for n, v in metrics.items()
        }
    found_placements = placements(all_arrays(state, frozen, batch))
    checkpoints = Checkpoints(folder / str(devices), TrainSetup(config, mesh))
    checkpoints.save(STEPS, state, RECORDS)
    assert checkpoints.close(STEPS)
    save_model(folder / str(devices) / "model", config.model, state.ema_params | frozen, tokenizer)
    return found, found_placements


def load(folder: Path, saved_on: int, devices: int) -> Arrays:
    """Loads onto ``devices`` what a run on ``saved_on`` devices saved."""
    config, _ = settings(folder)
    mesh = mesh_of(devices)
    checkpoints = Checkpoints(folder / str(saved_on), TrainSetup(config, mesh))
    state, _ = checkpoints.restore(RECORDS)
    checkpoints.close(STEPS)
    _, weights, _ = load_model(folder / str(saved_on) / "model", mesh)
    kernel = "mmdit.blocks.image.mlp_in.kernel"
    for leaf in (state.params[kernel], weights[kernel]):
        assert len(leaf.sharding.device_set) == devices
        assert leaf.addressable_shards[0].data.size * devices == leaf.size
    return flat(state) | {f"model {name}": np.asarray(value) for name, value in weights.items()}


def leaves(state: TrainState) -> dict[str, jax.Array]:
    """By name: ``params mmdit.text_out.bias``, ``mu mmdit.text_out.bias``, ..."""
    parts = {"params": state.params, "ema_params": state.ema_params}
    for part in jax.tree.leaves(state.opt_state, is_leaf=lambda node: hasattr(node, "mu")):
        if hasattr(part, "mu"):
            parts |= {"mu": part.mu, "nu": part.nu}
    return {f"{part} {name}": value for part, tree in parts.items() for name, value in tree.items()}


def all_arrays(state: TrainState, frozen: Arrays, batch: Batch) -> dict[str, jax.Array]:
    """By name: those of ``leaves``, ``frozen t5.embedding``, ..., ``batch image token_ids``, ..."""
    found = leaves(state) | {f"frozen {name}": value for name, value in frozen.items()}
    for stream, arrays in batch._asdict().items():
        found |= {f"batch {stream} {name}": value for name, value in (arrays or {}).items()}
    return found


def placements(arrays: Mapping[str, jax.Array]) -> Placements:
    """Where arrays lie: the spec of their sharding, and the shape that all of their shards have."""
    found: Placements = {}
    for name, value in arrays.items():
        shards = {shard.data.shape for shard in value.addressable_shards}
        [shard] = shards
        spec: list[Any] = [list(entry) if isinstance(entry, tuple) else entry for entry in value.sharding.spec]
        spec += [None] * (value.ndim - len(spec))
        found[name] = {"shape": list(value.shape), "spec": spec, "shard": list(shard)}
    return found


def flat(state: TrainState, prefix: str = "") -> Arrays:
    return {prefix + name: np.asarray(value) for name, value in leaves(state).items()} | {
        f"{prefix}step": np.asarray(state.step)
    }


def main(folder: Path) -> None:
    assert len(jax.devices()) == MANY
    for devices in (1, MANY):
        found, found_placements = run(folder, devices)
        np.savez(folder / f"found_{devices}.npz", **found)
        (folder / f"placements_{devices}.json").write_text(json.dumps(found_placements))
    np.savez(folder / "loaded.npz", **load(folder, saved_on=1, devices=MANY))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
