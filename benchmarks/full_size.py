"""The converter and the networks at the published size, in the memory of a laptop.

    make check-full-size
writes a random SD3-medium with T5-XXL and its autoencoder (the real layout, about 14 GB), imports it, opens it on eight
fake devices, compares a 512 px pass of the MMDiT and a T5-XXL encoding with torch, and deletes the files. Each phase
runs in its own process, which measures its peak of memory. Writes benchmarks/results/full_size.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import circumstances, write
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import remove

RESULTS = Path(__file__).parent / "results" / "full_size.json"
PHASES = ("write", "import", "load", "mmdit", "mmdit_torch", "t5", "t5_torch")
IMPORT_BOUND = 4 << 30  # bytes in addition to the largest stored leaf
MEMORY_BOUND = 24 << 30
ERROR_BOUND = 1e-5
DEVICES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="new folder for the files; default: a temporary one")
    parser.add_argument("--phase", choices=PHASES, help="run this phase only, on the files of earlier ones")
    parser.add_argument("--keep", action="store_true", help="do not delete the files at the end")
    arguments = parser.parse_args()
    if arguments.phase:
        from benchmarks import full_size_phases

        folder = Path(arguments.folder)
        figures = getattr(full_size_phases, f"phase_{arguments.phase}")(folder)
        figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (folder / f"{arguments.phase}.json").write_text(json.dumps(figures))
        return
    try:
        folder = made_folder(arguments.folder)
    except UserError as error:
        sys.exit(f"error: {error}")
    try:
        report = run(folder)
    finally:
        if not arguments.keep:
            remove(folder)
    write(report, RESULTS)
    print(json.dumps(report, indent=2))
    if report["missed"]:
        sys.exit(f"error: out of bounds: {', '.join(report['missed'])}")


def made_folder(name: str | None) -> Path:
    """Makes the folder for the files, which is removed at the end; a temporary one without a name.

    Raises:
        UserError: it exists, or cannot be made.
    """
    if not name:
        return Path(tempfile.mkdtemp(prefix="full_size_"))
    folder = Path(name)
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise UserError(f"{folder}: exists, and would be removed at the end; name a new --folder") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({reason(error)}); name another --folder") from error
    return folder


def run(folder: Path) -> dict:
    """Runs every phase and compares their outputs."""
    import numpy as np

    phases = {}
    for phase in PHASES:
        flags = f"--xla_force_host_platform_device_count={DEVICES if phase == 'load' else 1}"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        started = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.full_size", f"--phase={phase}", f"--folder={folder}"]
        subprocess.run(command, check=True, env=environment)
        figures = json.loads((folder / f"{phase}.json").read_text())
        phases[phase] = figures | {"seconds_with_start": round(time.monotonic() - started, 1)}
        print(f"{phase}: {phases[phase]}", file=sys.stderr, flush=True)
    errors = {}
    for name in ("mmdit", "t5"):
        found, expected = np.load(folder / f"{name}.npy"), np.load(folder / f"{name}_torch.npy")
        errors[name] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    bounds = {
        "import peak_bytes": IMPORT_BOUND + phases["import"]["largest_leaf_bytes"],
        **{f"{phase} peak_bytes": MEMORY_BOUND for phase in PHASES if phase != "import"},
    }
    missed = [name for name, bound in bounds.items() if phases[name.split()[0]]["peak_bytes"] > bound]
    missed += [f"{name} relative error" for name, error in errors.items() if not error <= ERROR_BOUND]
    return {
        "phases": phases,
        "relative_errors": errors,
        "bounds": bounds | {"relative error": ERROR_BOUND},
        "missed": missed,
        **circumstances(os.cpu_count() or 1, ("jax", "flax", "numpy", "torch", "diffusers", "transformers")),
    }


if __name__ == "__main__":
    main()
