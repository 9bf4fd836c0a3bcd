"""main.py, but a run ends itself at a chosen moment, so no test has to catch that moment.

python -m tests.end_to_end.ending_run terminate STEP FLAGS...       SIGTERM in STEP
python -m tests.end_to_end.ending_run kill STEP FLAGS...            SIGKILL in STEP, with the newest due save complete
python -m tests.end_to_end.ending_run kill_in_save STEP FLAGS...    SIGKILL in the save of STEP, before its last rename
"""

import os
import signal
import sys
from typing import Any

from dualdiff_jax.cli.main import run
from dualdiff_jax.training import loop
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.skipped_steps import SkippedSteps


def main(what: str, step: int) -> None:
    note, rename, opened = SkippedSteps.note, os.rename, []

    class NotedCheckpoints(Checkpoints):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            opened.append(self)

    def note_and_end(self: SkippedSteps, now: int, count: Any) -> None:
        note(self, now, count)
        if now == step:
            opened[0]._manager.wait_until_finished()
            os.kill(os.getpid(), signal.SIGTERM if what == "terminate" else signal.SIGKILL)

    def end_or_rename(source: Any, target: Any, **options: Any) -> None:
        if os.fspath(target).endswith(f"checkpoints/{step}"):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **options)

    loop.Checkpoints = NotedCheckpoints
    if what == "kill_in_save":
        os.rename = end_or_rename
    else:
        SkippedSteps.note = note_and_end


if __name__ == "__main__":
    main(sys.argv.pop(1), int(sys.argv.pop(1)))
    run()
