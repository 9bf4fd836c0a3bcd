"""The programs and the devices of this host."""

import importlib.metadata
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from dualdiff_jax.config.fields import in_units
from dualdiff_jax.hardware import memory_limit
from dualdiff_jax.readiness.finding import Finding
from dualdiff_jax.runtime import compiler_flags
from dualdiff_jax.training.run_item import versions

GOOGLE = "0x1ae0"  # the vendor of a PCI device


def machine_findings() -> Iterator[Finding]:
    """Versions, devices, accelerators that JAX does not use, and compiler flags."""
    yield Finding("versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
    try:
        devices = jax.devices()
    except RuntimeError as error:  # a driver that does not fit, or JAX_PLATFORMS names a platform that is not here
        advice = "install the JAX that fits the driver, or correct JAX_PLATFORMS"
        yield Finding("devices", f"JAX finds no device ({str(error).splitlines()[0]})", "fault", advice)
        return
    kinds = Counter(device.device_kind for device in devices)
    memory = memory_limit(jax.local_devices()[0])
    size = f", {in_units(memory)} each" if memory else ""
    yield Finding("devices", ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) + size)
    platform = devices[0].platform
    yield _accelerator(platform)
    yield compiler_flag_finding(platform)


def _accelerator(platform: str) -> Finding:
    present = accelerator_present()
    if platform != "cpu" or not present:
        return Finding("accelerator", "none here" if platform == "cpu" else f"JAX uses it ({platform})")
    found = f"{present} is present, but JAX runs on the CPU"
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        return Finding("accelerator", found, "warning", "unset JAX_PLATFORMS to use it")
    package = "cuda12" if present == "an NVIDIA GPU" else "tpu"
    if package == "cuda12" and _is_installed("jax-cuda12-plugin", "jax-cuda13-plugin"):
        return Finding("accelerator", found, "warning", "start nvidia-smi to see whether the driver works")
    return Finding("accelerator", found, "warning", f'pip install -U "jax[{package}]"')


def accelerator_present(root: Path = Path("/")) -> str:
    """The accelerator whose device file this host has; "" is none.

    Args:
        root: of the file system.
    """
    if next((root / "dev").glob("nvidia[0-9]*"), None):
        return "an NVIDIA GPU"
    vendors = (file.read_text().strip() for file in (root / "sys/bus/pci/devices").glob("*/vendor"))
    is_passed_on = next((root / "dev/vfio").glob("[0-9]*"), None)
    if next((root / "dev").glob("accel[0-9]*"), None) or (is_passed_on and GOOGLE in vendors):
        return "a TPU"
    return ""


def _is_installed(*packages: str) -> bool:
    return any(importlib.metadata.packages_distributions().get(name.replace("-", "_")) for name in packages)


def compiler_flag_finding(platform: str, environment: Mapping[str, str] = os.environ) -> Finding:
    """Whether XLA got this project's flags.

    Args:
        platform: of the devices.
        environment: holds the variables that XLA reads.
    """
    ours = compiler_flags.FLAGS.get(platform, {})
    if not ours:
        return Finding("compiler flags", f"none are needed ({platform})")
    variable, missing = compiler_flags.VARIABLE[platform], compiler_flags.options(platform, environment)
    if missing:
        advice = f"start the program as this one starts, or add them to {variable}"
        return Finding("compiler flags", f"{variable} lacks {', '.join(missing)}", "warning", advice)
    return Finding("compiler flags", f"{len(ours)} in {variable}: {environment[variable]}")


def free_host_memory(root: Path = Path("/")) -> float:
    """Bytes that this process may still take: the kernel's estimate, and the container's limit; infinite if unknown."""
    free = math.inf
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024.0
    limit = _lines(root / "sys/fs/cgroup/memory.max")
    if limit and limit[0].isdecimal():
        used = dict(line.split() for line in _lines(root / "sys/fs/cgroup/memory.stat"))
        free = min(free, max(0.0, int(limit[0]) - int(used.get("anon", 0))))
    return free


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
