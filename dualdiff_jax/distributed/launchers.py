"""Finds out which of how many processes this one is: from flags, or from its launcher (JAX's own cluster detection).

    flags        --coordinator=HOST:PORT --num_processes=N --process_id=K
    Open MPI     OMPI_COMM_WORLD_SIZE above 1; from Open MPI 5 on with mpi4py
    SLURM        a step of srun with SLURM_NTASKS above 1
    TPU          GKE: several TPU_WORKER_HOSTNAMES or MEGASCALE slices; Cloud TPU VM: the machine's metadata server
    Kubernetes   a pod of an indexed Job or JobSet, with the package ``kubernetes``
A process to which none of these applies runs alone; finding that out takes neither time nor network.
"""

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

# jax.distributed.initialize detects the same, but connects in the same call, and a connection that fails there aborts
# the process with a C++ stack trace. This module needs the answer first, to report failures in a sentence.
from jax._src.clusters import ClusterEnv

from dualdiff_jax.errors import UserError, quoted

FLAGS = "--coordinator=HOST:PORT --num_processes=N --process_id=K"
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class ProcessSpec(NamedTuple):
    """The position of a process among all processes of a run."""

    coordinator: str  # HOST:PORT of process 0
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None  # None: all devices of this machine


class Launcher(NamedTuple):
    """The program that started the processes."""

    name: str
    method: str | None  # JAX's name of the detection method; None: JAX picks one
    has_machine: bool = True  # each process uses all devices of its machine, not only the one with its local number


def find_process(
    coordinator: str | None, num_processes: int | None, process_id: int | None, *, timeout: int
) -> ProcessSpec | None:
    """Finds this process's position from the flags, or from its launcher if no flag is given.

    Args:
        coordinator: ``--coordinator``, HOST:PORT of process 0.
        num_processes: ``--num_processes``; 1 means alone, whatever started the process.
        process_id: ``--process_id``, from 0.
        timeout: seconds to wait for a launcher's answer.

    Returns:
        The position, or None if this process runs alone.

    Raises:
        UserError: flags are missing or contradict each other, or the launcher does not answer.
    """
    if num_processes == 1 and not process_id:
        return None
    if coordinator or num_processes or process_id is not None:
        return _from_flags(coordinator, num_processes, process_id)
    launcher = find_launcher(os.environ)
    process = launcher and _ask(launcher, timeout)
    return process if process and process.num_processes > 1 else None


def _from_flags(coordinator: str | None, num_processes: int | None, process_id: int | None) -> ProcessSpec:
    if coordinator is None or num_processes is None or process_id is None:
        given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
        missing = [flag for flag, value in given.items() if value is None]
        raise UserError(f"{' and '.join(missing)} must be given too: a process needs {FLAGS}")
    if process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} is not below --num_processes={num_processes}; processes count from 0"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--coordinator={coordinator} must be HOST:PORT of process 0, such as node0:8476")
    return ProcessSpec(coordinator, num_processes, process_id)


def find_launcher(environ: Mapping[str, str]) -> Launcher | None:
    """Recognizes the launcher by environment variables alone.

    Args:
        environ: the process's environment.

    Returns:
        The launcher, or None if it started a single process.

    Raises:
        UserError: JAX needs a package to ask this launcher, and the package is not installed; or a variable that
            counts processes is no number.
    """
    if _number(environ, "OMPI_COMM_WORLD_SIZE") > 1:
        is_old = "OMPI_MCA_orte_hnp_uri" in environ
        if not is_old:
            _need("mpi4py", "Open MPI 5 started this process")
        return Launcher("Open MPI", "ompi" if is_old else "mpi4py", environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1")
    if all(name in environ for name in SLURM_STEP) and _number(environ, "SLURM_NTASKS") > 1:
        tasks = re.findall(r"(\d+)(?:\(x\d+\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # as in 8(x3),4
        return Launcher("SLURM", "slurm", has_machine=set(tasks) == {"1"})
    if "tpu" in environ.get("JAX_PLATFORMS", "tpu") and (launcher := _find_tpu(environ)):
        return launcher
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        _need("kubernetes", "this pod belongs to an indexed Job")
        return Launcher("Kubernetes", None)
    return None


def _find_tpu(environ: Mapping[str, str]) -> Launcher | None:
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    has_hosts = "," in hosts or "TPU_PROCESS_ADDRESSES_PATH" in environ
    if has_hosts or _number(environ, "MEGASCALE_NUM_SLICES") > 1:
        return Launcher("GKE", "gketpu")
    # Importing jax sets the first variable on a machine with TPU chips, and the second on a machine without.
    if "TPU_ML_PLATFORM" in environ and "TPU_SKIP_MDS_QUERY" not in environ and not hosts:
        return Launcher("the TPU VM", "gcetpu")
    return None


def _number(environ: Mapping[str, str], name: str) -> int:
    """The number in a variable; 1 where it is not set."""
    text = environ.get(name, "1")
    try:
        return int(text)
    except ValueError as error:
        raise UserError(
            f"{name}: found {quoted(text)}, expected a number; unset the variable, or give {FLAGS}, or "
            "--num_processes=1 if it runs alone"
        ) from error


def _need(package: str, why: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{why}, but {package}, which reports its process number, is not installed; pip install {package}, or give "
            f"{FLAGS}, or --num_processes=1 if it runs alone"
        )


def _ask(launcher: Launcher, timeout: int) -> ProcessSpec:
    try:
        coordinator, num_processes, process_id, devices = ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, launcher.method, timeout
        )
    except Exception as error:  # from sockets, HTTP, the Kubernetes API or MPI
        message = str(error).strip() or type(error).__name__
        raise UserError(f"{launcher.name} started this process, but does not report its number: {message}") from error
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            f"{launcher.name} started this process, but JAX cannot find out its number; give {FLAGS}, or "
            "--num_processes=1 if it runs alone"
        )
    has_all = launcher.has_machine or "JAX_LOCAL_DEVICE_IDS" in os.environ
    return ProcessSpec(coordinator, num_processes, process_id, None if has_all or not devices else tuple(devices))
