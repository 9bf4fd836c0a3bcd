"""XLA's flags: the user's value wins, CPUs get none, and the installed XLA knows them all."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dualdiff_jax.runtime import compiler_flags
from dualdiff_jax.runtime.compiler_flags import FLAGS, options, set_flags

ROOT = Path(__file__).parents[3]
GPU = "xla_gpu_enable_latency_hiding_scheduler"


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """As on a machine with an NVIDIA GPU."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(compiler_flags, "NVIDIA_DRIVER", tmp_path / "nvidiactl")


def test_every_flag_is_set(driver):
    environment = {}
    set_flags(environment)
    assert set(environment) == {"XLA_FLAGS", "LIBTPU_INIT_ARGS"}
    assert len(environment["XLA_FLAGS"].split()) == len(FLAGS["gpu"])
    assert f"--{GPU}=true" in environment["XLA_FLAGS"].split()
    assert "--xla_gpu_reduce_scatter_combine_threshold_bytes=536870912" in environment["XLA_FLAGS"].split()
    assert "--xla_enable_async_all_gather=true" in environment["LIBTPU_INIT_ARGS"].split()


def test_the_users_value_of_a_flag_wins(driver):
    environment = {"XLA_FLAGS": f"--{GPU}=false --xla_dump_to=/somewhere"}
    set_flags(environment)
    assert environment["XLA_FLAGS"].count(GPU) == 1
    assert environment["XLA_FLAGS"].endswith(f"--{GPU}=false --xla_dump_to=/somewhere")
    assert GPU not in options("gpu", environment) and GPU in options("gpu", {})


def test_without_a_gpu_its_compiler_gets_no_flags(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler_flags, "NVIDIA_DRIVER", tmp_path / "nothing")
    environment = {}
    set_flags(environment)
    assert set(environment) == {"LIBTPU_INIT_ARGS"}


def test_a_run_on_cpus_gets_no_flags(driver):
    environment = {"JAX_PLATFORMS": "cpu"}
    set_flags(environment)
    assert environment == {"JAX_PLATFORMS": "cpu"}
    assert options("cpu", {}) == {}


def test_the_installed_xla_knows_the_flags_of_gpus():
    """As flags, of which an unknown one aborts the process, and as options, which are fewer than the flags."""
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in FLAGS["gpu"].items())
    done = subprocess.run(
        [sys.executable, "-c", "import jax; print(len(jax.devices()))"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1", done.stderr
    assert float(jax.jit(lambda x: 2 * x, compiler_options=dict(FLAGS["gpu"]))(jnp.float32(2))) == 4.0


def test_prepare_sets_them_before_jax_starts():
    program = (
        "import os; from dualdiff_jax.runtime import environment; environment.prepare();"
        "from jax._src import xla_bridge; print(os.environ['LIBTPU_INIT_ARGS'], xla_bridge.backends_are_initialized())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "--xla_enable_async_all_gather=true" in done.stdout and done.stdout.strip().endswith("False"), done.stderr
