"""The cost of a checkpoint to the demo's training loop: the same steps, in turn with and without a save before them.

    python -m benchmarks.saving --output=benchmarks/results/saving.json

The save runs in the background during the steps after it; its cost is how much later they end. The share is this cost
over the time between two saves at the default interval. Run it on a machine that is otherwise idle.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax

from benchmarks.record import circumstances, write
from configs import demo
from demo.data import write as write_data
from dualdiff_jax.config import RunConfig, TrainConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.objectives.joint import Objective
from dualdiff_jax.runtime import environment
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.step import make_step

STEPS = 40  # a save ends within them


def settings(data: Path) -> RunConfig:
    config = demo.get_config()
    config.data.sources = [{**source, "root": str(data)} for source in config.to_dict()["data"]["sources"]]
    config.data.tokenizer = str(data / "tokenizer")
    return resolve(config)


def measure(root: Path, pairs: int) -> dict[str, float]:
    """Seconds of a step, seconds that the loop waits for a save to begin, and seconds that a save costs in all."""
    write_data(root / "data")
    config = settings(root / "data")
    tokenizer, mesh = Tokenizer(config.data.tokenizer), make_mesh(config.mesh)
    data = Mixture(config.data, tokenizer, seed=0, global_batch_size=config.train.global_batch_size)
    batches = [data.batch(number) for number in range(8)]
    setup = TrainSetup(config, mesh)
    params, frozen = setup.init_params()
    frozen = setup.trainable.separate(frozen)
    state = setup.init_state(params)
    null = tokenizer.null_ids(config.data.text_length)
    objective = Objective(config.objective, null_token_ids=null, mask_token_id=tokenizer.mask_token_id)
    step = make_step(setup, objective)
    checkpoints = Checkpoints(root, setup)
    waits, with_save, without = [], [], []
    for number in range(2 * pairs + 2):
        is_saving = number % 2 == 1
        before = time.perf_counter()
        if is_saving:
            checkpoints.save(number, state, data.fingerprint())
            waits.append(time.perf_counter() - before)
        for n in range(STEPS):
            state, _ = step(state, frozen, batches[n % len(batches)])
        jax.block_until_ready(state)
        (with_save if is_saving else without).append(time.perf_counter() - before)
        if checkpoints.is_saving():
            raise RuntimeError(f"a save takes longer than {STEPS} steps, so it would slow the steps without a save")
    if not checkpoints.close(2 * pairs + 1):
        raise RuntimeError("a checkpoint could not be written")
    plain = statistics.median(without[1:])  # the first includes compiling
    return {
        "step_s": plain / STEPS,
        "save_waited_s": statistics.median(waits[1:]),
        "save_cost_s": statistics.median(with_save[1:]) - plain,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/saving.json"))
    options = parser.parse_args()
    environment.prepare()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.pairs)
    interval = TrainConfig.save_every
    found |= {"save_every": interval, "share": found["save_cost_s"] / (interval * found["step_s"])}
    print(found)
    write(circumstances(1, ("jax", "orbax-checkpoint")) | found, options.output)


if __name__ == "__main__":
    main()
