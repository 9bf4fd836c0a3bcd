"""A process finds its number from each launcher's own variables; two processes on this machine really connect."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dualdiff_jax.distributed.launchers import find_launcher, find_process
from dualdiff_jax.errors import UserError
from tests.end_to_end.command import HANG
from tests.multidevice.hosts import free_port

ROOT = Path(__file__).parents[3]
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
SLURM = {"SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
SLURM_TASK = SLURM | {"SLURM_PROCID": "0"}
POD = {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}

JOIN = """
import jax, jax.numpy as jnp
from jax._src.xla_bridge import CUDA_VISIBLE_DEVICES
from jax.experimental.multihost_utils import process_allgather
from dualdiff_jax.distributed.process_group import distributed_run
with distributed_run(None, None, None, 3600):
    numbers = process_allgather(jnp.asarray([jax.process_index()])).ravel().tolist()
    print(jax.process_index(), numbers, CUDA_VISIBLE_DEVICES.value)
"""

# The calls of the Kubernetes API that JAX makes: the pod with this address, and the Job that the pod belongs to.
KUBERNETES = """
from types import SimpleNamespace as S
from jax._src.clusters.k8s_cluster import K8sCluster

class CoreV1Api:
    def list_namespaced_pod(self, namespace, field_selector):
        return S(items=[S(metadata=S(labels={"job-name": "training"}))])

class BatchV1Api:
    def read_namespaced_job(self, name, namespace):
        assert (name, namespace) == ("training", "a namespace")
        return S(spec=S(parallelism=2))

config = S(load_incluster_config=lambda: None)
client = S(CoreV1Api=CoreV1Api, BatchV1Api=BatchV1Api, exceptions=S(ApiException=KeyError))
K8sCluster._namespace = classmethod(lambda cls: "a namespace")  # a file that pods have
"""


def join(**variables: list[str] | str) -> list[str]:
    """Runs two processes that join; returns the last line of each. A list holds one variable's value for each."""
    processes = []
    for number in (0, 1):
        own = {name: value if isinstance(value, str) else value[number] for name, value in variables.items()}
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | own
        environment["PYTHONPATH"] = f"{ROOT}:{own.get('PYTHONPATH', '')}"
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", JOIN],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    printed = [process.communicate(timeout=HANG) for process in processes]
    assert all(process.returncode == 0 for process in processes), printed
    return [[line for line in out.splitlines() if line[:1].isdigit()][-1] for out, _ in printed]


def test_slurm_with_one_task_a_node_gives_it_all_gpus():
    port = str(free_port())
    lines = join(**SLURM, SLURM_PROCID=["0", "1"], SLURM_STEP_TASKS_PER_NODE="1(x2)", JAX_COORDINATOR_PORT=port)
    assert lines == ["0 [0, 1] all", "1 [0, 1] all"]


def test_slurm_with_one_task_a_gpu_gives_it_that_one():
    port = str(free_port())
    slurm = SLURM | {"SLURM_LOCALID": ["0", "1"]}
    lines = join(**slurm, SLURM_PROCID=["0", "1"], SLURM_STEP_TASKS_PER_NODE="2", JAX_COORDINATOR_PORT=port)
    assert lines == ["0 [0, 1] 0", "1 [0, 1] 1"]


def test_open_mpi():
    port = str(free_port())
    uri = "1531576320.0;tcp://127.0.0.1:34911"
    lines = join(
        **OMPI,
        OMPI_COMM_WORLD_RANK=["0", "1"],
        OMPI_COMM_WORLD_LOCAL_SIZE="1",
        OMPI_MCA_orte_hnp_uri=uri,
        JAX_COORDINATOR_PORT=port,
    )
    assert lines == ["0 [0, 1] all", "1 [0, 1] all"]


def test_kubernetes(tmp_path):
    (tmp_path / "kubernetes.py").write_text(KUBERNETES)
    lines = join(
        **POD,
        JOB_COMPLETION_INDEX=["0", "1"],
        HOSTNAME="localhost",
        PYTHONPATH=str(tmp_path),
        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{free_port()}",
    )
    assert lines == ["0 [0, 1] all", "1 [0, 1] all"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # the batch script
        SLURM | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        OMPI | {"OMPI_COMM_WORLD_SIZE": "1"},
        POD,  # a pod of its own
        {"TPU_SKIP_MDS_QUERY": "1", "TPU_ML_PLATFORM": "JAX"},  # libtpu without a TPU
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ML_PLATFORM": "JAX"},
        {"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"},
    ],
)
def test_without_a_launcher_of_several_processes_there_is_none(environ):
    assert find_launcher(environ) is None


@pytest.mark.parametrize(
    ("environ", "name", "method"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "GKE", "gketpu"),
        (
            {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2", **POD, "JOB_COMPLETION_INDEX": "0"},
            "GKE",
            "gketpu",
        ),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1", "JAX_PLATFORMS": "tpu,cpu"}, "GKE", "gketpu"),
        ({"TPU_ML_PLATFORM": "JAX"}, "the TPU VM", "gcetpu"),
        (OMPI | SLURM | {"SLURM_PROCID": "0", "OMPI_MCA_orte_hnp_uri": ""}, "Open MPI", "ompi"),
    ],
)
def test_each_launcher_is_recognized(environ, name, method):
    launcher = find_launcher(environ)
    assert (launcher.name, launcher.method) == (name, method)


@pytest.mark.parametrize("value", ["", "two", "1.5"])
@pytest.mark.parametrize(
    ("name", "others"), [("OMPI_COMM_WORLD_SIZE", {}), ("SLURM_NTASKS", SLURM_TASK), ("MEGASCALE_NUM_SLICES", {})]
)
def test_a_variable_that_is_no_number_is_named(name, others, value):
    with pytest.raises(UserError, match=f"^{name}: found '{value}', expected a number; unset the variable, or give --"):
        find_launcher(others | {name: value})


def test_a_missing_package_is_reported():
    with pytest.raises(UserError, match="Open MPI 5 started this process, but mpi4py, .* is not installed"):
        find_launcher(OMPI)
    with pytest.raises(UserError, match="indexed Job, but kubernetes, .* is not installed.* or --num_processes=1"):
        find_launcher(POD | {"JOB_COMPLETION_INDEX": "0"})


def test_a_launcher_that_does_not_answer_is_reported(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "no-such-host.invalid")
    with pytest.raises(UserError, match="GKE started this process, but does not report its number: .*no-such-host"):
        find_process(None, None, None, timeout=0)
    assert find_process(None, 1, None, timeout=1) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("a:1", None, None), "--num_processes and --process_id must be given too"),
        ((None, 2, 0), "--coordinator must be given too"),
        ((None, None, 0), "--coordinator and --num_processes must be given too"),
        (("a:1", 2, 2), "--process_id=2 is not below --num_processes=2"),
        (("a", 2, 0), "--coordinator=a must be HOST:PORT"),
        (("a:99999", 2, 0), "--coordinator=a:99999 must be HOST:PORT"),
        ((":80", 2, 0), "must be HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_are_reported(flags, message):
    with pytest.raises(UserError, match=message):
        find_process(*flags, timeout=1)


def test_flags_come_before_the_launcher(monkeypatch):
    for name, value in (SLURM | {"SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    assert find_process("a:1", 4, 3, timeout=1) == ("a:1", 4, 3, None)


def test_a_process_alone_asks_no_network(monkeypatch):
    def refuse(*arguments, **named):
        raise AssertionError("the network is asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert find_process(None, None, None, timeout=300) is None
