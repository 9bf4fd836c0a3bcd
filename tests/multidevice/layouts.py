"""One training step from one state in every layout of eight devices, and in every way to save memory on one.

python -m tests.multidevice.layouts FOLDER [NUMBER ...]

Numbers of ``CASES``; all by default.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.models import stack
from dualdiff_jax.models.bundle import rules_of
from dualdiff_jax.sharding import make_mesh, place_batch, rules_in_force
from tests.multidevice.two_steps import Placements, all_arrays, draw_batch, flat, placements, random_state
from tests.small_run import small_run, step_of

REFERENCE = "one device"
MANY = 8
SHALLOW = stack.SHALLOW
Case = tuple[int, dict, dict]  # devices, fields of the mesh, fields of sections of the config

CASES: dict[str, Case] = {
    REFERENCE: (1, {}, {}),
    "replicated": (MANY, {"layout": "replicated"}, {}),
    "fsdp": (MANY, {"layout": "fsdp"}, {}),
    "data 2, fsdp 2, tensor 2": (MANY, {"layout": "sizes", "data": 2, "fsdp": 2, "tensor": 2}, {}),
    "fsdp 4, context 2": (MANY, {"context": 2}, {}),
    "fsdp 4, context 2, other rules": (
        MANY,
        {"context": 2, "rules": (("width", "fsdp", "context"), ("mlp",), ("vocab",))},
        {},
    ),
    "tensor 2, context 2, TPU kernel": (
        MANY,
        {"tensor": 2, "context": 2},
        {"model": {"attention": "splash_interpreted"}},
    ),
    "microbatches 2": (1, {}, {"train": {"microbatches": 2}}),
    "microbatches 4, fsdp 2": (2, {}, {"train": {"microbatches": 4}}),
    "microbatches 4": (1, {}, {"train": {"microbatches": 4}}),
    **{
        f"remat {policy}": (1, {}, {"train": {"remat": policy}})
        for policy in ("full", "dots", "save_attention", "offload")
    },
    "blocks in a loop": (1, {}, {"loop": True}),
    "blocks unrolled": (1, {}, {"train": {"blocks": "unrolled"}}),
    "blocks unrolled, fsdp, remat dots": (MANY, {}, {"train": {"blocks": "unrolled", "remat": "dots"}}),
    "blocks in a loop, fsdp, remat dots": (MANY, {}, {"loop": True, "train": {"remat": "dots"}}),
}


def run(folder: Path, case: Case) -> tuple[dict[str, np.ndarray], Placements]:
    """State and metrics after the step, by name; and the placements of state, frozen weights and batch."""
    devices, fields, sections = case
    stack.SHALLOW = 0 if sections.get("loop") else SHALLOW  # a stack of two blocks is unrolled otherwise
    train = {"steps": 5, "global_batch_size": MANY} | sections.get("train", {})
    model = {"mmdit": {"depth": 2}} | sections.get("model", {})
    optimizer = {"warmup_steps": 0, "schedule": "constant", "learning_rate": 1e-3}
    config, tokenizer = small_run(folder / "data", model=model, train=train, optimizer=optimizer)
    mesh_config = resolve(ConfigDict(fields), MeshConfig)
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    with rules_in_force(rules_of(mesh_config, config.model)):
        state, frozen = random_state(config, mesh)
        step = step_of(config, tokenizer, mesh)
        batch = place_batch(mesh, draw_batch(config, tokenizer, 1))
        state, metrics = step(state, frozen, batch)
    found = flat(state) | {f"metrics {name}": np.asarray(value) for name, value in metrics.items()}
    return found, placements(all_arrays(state, frozen, batch))


def main(folder: Path, numbers: list[int]) -> None:
    assert len(jax.devices()) == MANY
    for number, (name, case) in enumerate(CASES.items()):
        if numbers and number not in numbers:
            continue
        found, found_placements = run(folder, case)
        np.savez(folder / f"{number}.npz", **found)
        (folder / f"{number}.json").write_text(json.dumps(found_placements))
        print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(number) for number in sys.argv[2:]])
