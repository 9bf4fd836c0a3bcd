"""Which process this one is: each launcher's own variables, two processes on this machine, a real connection."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualdiff_jax.distributed.launchers import find_launcher, find_process
from dualdiff_jax.errors import UserError
from tests.multidevice.hosts import free_port

ROOT = Path(__file__).parents[3]
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
SLURM = {"SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
POD = {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}

JOIN = """
import jax, jax.numpy as jnp
from jax._src.xla_bridge import CUDA_VISIBLE_DEVICES
from jax.experimental.multihost_utils import process_allgather
from dualdiff_jax.distributed.process_group import distributed_run
with distributed_run(None, None, None, 60):
    found = process_allgather(jnp.asarray([jax.process_index()])).ravel().tolist()
    print(jax.process_index(), found, CUDA_VISIBLE_DEVICES.value)
"""

# What jax asks of the Kubernetes API: the pod that has this address, and the Job that the pod belongs to.
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
    """What two processes say that have joined; a list holds the value of each of them."""
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
    told = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), told
    return [[line for line in out.splitlines() if "Gloo" not in line and line[:1].isdigit()][-1] for out, _ in told]


def test_slurm_with_one_task_a_node_gives_it_all_gpus():
    port = str(free_port())
    said = join(**SLURM, SLURM_PROCID=["0", "1"], SLURM_STEP_TASKS_PER_NODE="1(x2)", JAX_COORDINATOR_PORT=port)
    assert said == ["0 [0, 1] all", "1 [0, 1] all"]


def test_slurm_with_one_task_a_gpu_gives_it_that_one():
    port = str(free_port())
    slurm = SLURM | {"SLURM_LOCALID": ["0", "1"]}
    said = join(**slurm, SLURM_PROCID=["0", "1"], SLURM_STEP_TASKS_PER_NODE="2", JAX_COORDINATOR_PORT=port)
    assert said == ["0 [0, 1] 0", "1 [0, 1] 1"]


def test_open_mpi():
    port = str(free_port())
    uri = "1531576320.0;tcp://127.0.0.1:34911"
    said = join(
        **OMPI,
        OMPI_COMM_WORLD_RANK=["0", "1"],
        OMPI_COMM_WORLD_LOCAL_SIZE="1",
        OMPI_MCA_orte_hnp_uri=uri,
        JAX_COORDINATOR_PORT=port,
    )
    assert said == ["0 [0, 1] all", "1 [0, 1] all"]


def test_kubernetes(tmp_path):
    (tmp_path / "kubernetes.py").write_text(KUBERNETES)
    said = join(
        **POD,
        JOB_COMPLETION_INDEX=["0", "1"],
        HOSTNAME="localhost",
        PYTHONPATH=str(tmp_path),
        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{free_port()}",
    )
    assert said == ["0 [0, 1] all", "1 [0, 1] all"]


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
def test_what_is_alone(environ):
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
def test_what_has_company(environ, name, method):
    launcher = find_launcher(environ)
    assert (launcher.name, launcher.method) == (name, method)


def test_a_missing_package_is_told():
    with pytest.raises(UserError, match="Open MPI 5 started this process, and mpi4py is not installed"):
        find_launcher(OMPI)
    with pytest.raises(UserError, match="indexed Job, and kubernetes is not installed.* or --num_processes=1"):
        find_launcher(POD | {"JOB_COMPLETION_INDEX": "0"})


def test_a_launcher_that_cannot_be_asked_is_told(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "no-such-host.invalid")
    with pytest.raises(UserError, match="GKE started this process, but does not say which it is: .*no-such-host"):
        find_process(None, None, None, timeout=0)
    assert find_process(None, 1, None, timeout=1) is None


@pytest.mark.parametrize(
    ("flags", "told"),
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
def test_flags_that_do_not_fit_are_told(flags, told):
    with pytest.raises(UserError, match=told):
        find_process(*flags, timeout=1)


def test_flags_come_before_the_launcher(monkeypatch):
    for name, value in (SLURM | {"SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    assert find_process("a:1", 4, 3, timeout=1) == ("a:1", 4, 3, None)


def test_alone_is_found_out_at_once():
    start = time.monotonic()
    assert find_process(None, None, None, timeout=300) is None
    assert time.monotonic() - start < 0.1
