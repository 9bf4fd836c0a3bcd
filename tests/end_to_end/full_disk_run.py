"""main.py, but its disk is full from one step to another.

python -m tests.end_to_end.full_disk_run FULL_AT EMPTY_AT FLAGS...
"""

import sys
from typing import Any

from dualdiff_jax.cli import train as command
from dualdiff_jax.cli.main import run
from tests.full_disk import full_disk


def main(full_at: int, empty_at: int) -> None:
    train = command.train

    def train_with_full_disk(config: Any, workdir: Any, mesh: Any, hooks: Any) -> Any:
        with full_disk() as fill:

            def hook(step: int, weights: Any) -> None:
                if step in (full_at, empty_at):
                    fill(step == full_at)

            return train(config, workdir, mesh, [*hooks, (1, hook)])

    command.train = train_with_full_disk
    run()


if __name__ == "__main__":
    main(int(sys.argv.pop(1)), int(sys.argv.pop(1)))
