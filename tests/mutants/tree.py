"""A copy of the tree in a temporary folder, with a process that runs tests in it; mutants are written there alone."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests import compiler
from tests.mutants.operators import Mutant

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "mutants"


def copy_tree(folder: Path) -> None:
    """What git tracks or would track, as it lies on disk now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


class Tree:
    def __init__(self, folder: Path, seed: int):
        """Copies the tree to ``folder`` and starts its process, ``seed`` being that of the parity tests."""
        self.folder = folder / "tree"
        self.folder.mkdir()
        self.log = folder / "pytest.log"
        copy_tree(self.folder)
        environment = dict(os.environ)
        environment.pop("PYTHONPATH", None)
        environment |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(CACHE / "jax"),
            "JAX_COMPILATION_CACHE_MAX_SIZE": str(4 << 30),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # a mutant changes few of a test's programs
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_FLAGS": compiler.FLAGS,
            "PARITY_SEED": str(seed),
            "PYTHONDONTWRITEBYTECODE": "1",  # a stale one could stand for the file before or after its mutation
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.worker", str(self.log)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    def run(
        self,
        files: Sequence[str],
        tests: Sequence[str] | None = None,
        *,
        limits: dict[str, float],
        left_out: Sequence[str] = (),
        traced: bool = False,
        stop_at_first: bool = True,
    ) -> dict[str, Any]:
        """Runs ``tests``, in that order, or all of ``files``, but for those ``left_out``; see ``worker.run``."""
        request = {
            "files": files,
            "tests": tests,
            "left_out": list(left_out),
            "limits": limits,
            "traced": traced,
            "stop_at_first": stop_at_first,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        file = self.folder / mutant.file
        source = file.read_bytes()
        file.write_bytes(mutant.apply(source))
        try:
            yield
        finally:
            file.write_bytes(source)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that runs the tests has ended; its last output is in {self.log}")
        return json.loads(line)
