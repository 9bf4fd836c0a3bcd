"""What is said of the devices that are here, and of those that JAX does not use."""

import math

import pytest

from dualdiff_jax.readiness import machine


def test_an_nvidia_gpu_is_known_by_its_device_file(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert machine.accelerator_present(tmp_path) == ""
    (tmp_path / "dev" / "nvidia0").touch()
    assert machine.accelerator_present(tmp_path) == "an NVIDIA GPU"


def test_a_device_that_is_passed_on_is_a_tpu_only_on_a_host_with_google_hardware(tmp_path):
    (tmp_path / "dev/vfio").mkdir(parents=True)
    (tmp_path / "dev/vfio/0").touch()
    device = tmp_path / "sys/bus/pci/devices/0000:00:04.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    assert machine.accelerator_present(tmp_path) == ""
    (device / "vendor").write_text("0x1ae0\n")
    assert machine.accelerator_present(tmp_path) == "a TPU"


@pytest.mark.parametrize(
    ("present", "platforms", "advice"),
    [
        ("an NVIDIA GPU", "", 'pip install -U "jax[cuda12]"'),
        ("a TPU", "", 'pip install -U "jax[tpu]"'),
        ("a TPU", "cpu", "unset JAX_PLATFORMS to use it"),
    ],
)
def test_an_accelerator_that_jax_does_not_use_is_a_warning_with_the_command(monkeypatch, present, platforms, advice):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(machine, "accelerator_present", lambda: present)
    monkeypatch.setattr(machine, "_is_installed", lambda *packages: False)
    finding = machine._accelerator("cpu")
    assert (finding.status, finding.advice) == ("warning", advice)
    assert finding.found == f"{present} is present, but JAX runs on the CPU"
    assert machine._accelerator("gpu").status == "ok"


def test_missing_compiler_flags_are_named():
    flags = {"XLA_FLAGS": " ".join(f"--{name}=1" for name in machine.compiler_flags.FLAGS["gpu"])}
    assert machine.compiler_flag_finding("gpu", flags).status == "ok"
    finding = machine.compiler_flag_finding("gpu", {"XLA_FLAGS": flags["XLA_FLAGS"].split(" ", 1)[1]})
    assert finding.status == "warning"
    assert finding.found == f"XLA_FLAGS lacks {next(iter(machine.compiler_flags.FLAGS['gpu']))}"
    assert machine.compiler_flag_finding("cpu", {}).status == "ok"


def test_free_memory_is_the_least_that_the_kernel_and_the_container_leave(tmp_path):
    assert machine.free_host_memory(tmp_path) == math.inf
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 8 kB\n")
    assert machine.free_host_memory(tmp_path) == 8192
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    assert machine.free_host_memory(tmp_path) == 8192
    (group / "memory.max").write_text("5000\n")
    (group / "memory.stat").write_text("anon 1000\nfile 3000\n")
    assert machine.free_host_memory(tmp_path) == 4000


def test_a_host_without_devices_is_a_fault_and_no_traceback(monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu'\nmore")

    monkeypatch.setattr(machine.jax, "devices", fail)
    found = list(machine.machine_findings())
    assert found[-1].status == "fault" and "Unable to initialize backend 'tpu'" in found[-1].found
