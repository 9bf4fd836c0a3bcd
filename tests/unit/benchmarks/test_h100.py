"""The H100 benchmark, tried without a card: its imports, its report, and the report of a run that ends early."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import h100
from benchmarks.h100_phases import beside_its_plan, names
from benchmarks.h100_sizes import full_size, tiny_size

ROOT = Path(__file__).parents[3]
ABSENT = ("grain", "ml_collections", "array_record", "tensorflow_datasets", "importlib_resources", "diffusers")
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import benchmarks.h100_phases
from benchmarks.h100_sizes import full_size
full_size()
import jax._src.xla_bridge
assert not jax._src.xla_bridge._backends, "an import initialised the device"
assert "torch" not in sys.modules
"""


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LONG)


def run_tiny(output: Path, *arguments: str) -> dict:
    process = python("-m", "benchmarks.h100", "--size=tiny", "--platform=cpu", f"--output={output}", *arguments)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(output.read_text())


def test_the_jax_side_needs_no_reader_of_data_and_initialises_no_device():
    process = python("-c", WITHOUT.format(absent=ABSENT))
    assert process.returncode == 0, process.stderr[-2000:]


def test_a_step_stands_beside_what_a_plan_reads_off_its_program():
    """790e12 operations a second: 2 * 8192^3 operations take 1.392 ms."""
    text = """ENTRY %main (p: bf16[8192,8192]) -> bf16[8192,8192] {
  %p = bf16[8192,8192]{1,0} parameter(0)
  ROOT %d = bf16[8192,8192]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
    measured = {"median_s": 2e-3, "flops": 2.0 * 8192**3}
    found = beside_its_plan(text, "NVIDIA H100 80GB HBM3", measured)
    assert found["plan_s"] == pytest.approx(2 * 8192**3 / 790e12)
    assert found["measured_over_plan"] == pytest.approx(2e-3 / found["plan_s"])
    assert found["plan_mfu"] == pytest.approx(790 / 989)
    assert found["plan_s_by_kind"]["products"] == found["plan_s"]
    assert beside_its_plan(text, "cpu", measured) == {}


def test_the_full_size_is_the_published_model():
    size = full_size()
    sizes = size.config.model
    assert (sizes.mmdit.depth, sizes.mmdit.width, sizes.t5.width, sizes.t5.depth) == (24, 1536, 4096, 24)
    assert (sizes.sampling.height, sizes.sampling.image_steps, sizes.sampling.guidance_scale) == (512, 28, 7.0)
    assert (sizes.sampling.answer_length, sizes.sampling.answer_steps) == (128, 32)
    assert (size.config.data.text_length, sizes.compute_dtype, size.config.train.remat) == (256, "bfloat16", "dots")
    assert set(names(size)) == set(h100.PHASES)


def test_a_phase_writes_its_figures_and_the_version_of_a_given_wheel(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "triton-9.9.9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("triton-9.9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: triton\nVersion: 9.9.9\n")
    report = run_tiny(tmp_path / "report.json", "--phases=jax_attention", f"--wheels={wheels}")
    assert report["versions"]["triton"] == "9.9.9"
    assert (report["size"], report["platform"], report["not_measured"]) == ("tiny", "cpu", [])
    assert {"cpu", "cores", "accelerators", "system"} <= report["machine"].keys()
    for figure in report["figures"]:
        assert 0 < figure["min_s"] <= figure["median_s"] <= figure["max_s"] and figure["samples"] >= 3
        assert figure["side"] == "jax_xla" and figure["compile_s"] > 0
    assert [figure["name"] for figure in report["figures"]] == ["attention_24_forward", "attention_24_both"]


def test_a_run_without_time_lists_its_missing_figures(tmp_path):
    report = run_tiny(tmp_path / "report.json", "--seconds=0")
    assert report["figures"] == [] and report["ratios"] == {}
    assert {entry["reason"] for entry in report["not_measured"]} == {h100.NO_TIME}
    planned = names(tiny_size())
    assert [(entry["name"], entry["side"]) for entry in report["not_measured"]] == sum(planned.values(), [])


PRINTS_TWO = """
import time
print("some chatter")
print('figure: {"name": "a", "side": "jax"}', flush=True)
print('figure: {"name": "b", "side": "jax"}', flush=True)
"""


LONG = 3600  # seconds; half of it only ends a hang


def run_phase(code: str, is_late: bool = False) -> tuple[list[str], dict[str, str]]:
    """Names of the figures that a phase yields, and faults; it prints figures a and b, then runs ``code``.

    The deadline passes after its figures if ``is_late``, else never.
    """
    faults, found, command = {"phase": h100.NO_TIME}, [], [sys.executable, "-S", "-c", PRINTS_TWO + code]
    clock = SimpleNamespace(monotonic=lambda: 2.0 if is_late and len(found) == 2 else 0.0, sleep=time.sleep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h100, "time", clock)
        for figure in h100.phase_figures(command, {}, 1.0, "phase", faults):
            found.append(figure["name"])
    return found, faults


def test_a_phase_that_takes_too_long_is_stopped_and_its_figures_are_kept():
    started = time.monotonic()
    assert run_phase(f"time.sleep({LONG})", is_late=True) == (["a", "b"], {"phase": h100.NO_TIME})
    assert time.monotonic() - started < LONG / 2


def test_a_worker_that_outlives_its_phase_delays_nothing():
    started = time.monotonic()
    sleeper = f"[sys.executable, '-S', '-c', 'import time; time.sleep({LONG})']"
    assert run_phase(f"import subprocess, sys; subprocess.Popen({sleeper})")[0] == ["a", "b"]
    assert time.monotonic() - started < LONG / 2


def test_a_phase_that_dies_keeps_its_figures_and_gives_the_reason():
    found, faults = run_phase("import os; os._exit(7)")
    assert found == ["a", "b"] and "code 7" in faults["phase"]


def test_failed_and_absent_figures_have_different_reasons():
    plan = {"one": [("a", "jax"), ("b", "jax")], "two": [("c", "torch")]}
    figures = [{"name": "a", "side": "jax", "median_s": 1.0}, {"name": "b", "side": "jax", "error": "no memory"}]
    found = h100.not_measured(plan, figures, {"one": "", "two": h100.NO_TIME})
    assert [(entry["name"], entry["reason"]) for entry in found] == [("b", "no memory"), ("c", h100.NO_TIME)]


def test_a_ratio_is_torch_over_our_first_side():
    figures = [
        {"name": "step", "side": "jax", "median_s": 2.0},
        {"name": "step", "side": "torch", "median_s": 3.0},
        {"name": "step", "side": "torch_compiled", "error": "no memory"},
        {"name": "attention", "side": "jax_cudnn", "median_s": 1.0},
        {"name": "attention", "side": "jax_xla", "median_s": 8.0},
        {"name": "attention", "side": "torch_flash", "median_s": 2.0},
        {"name": "alone", "side": "jax", "median_s": 1.0},
    ]
    assert h100.ratios(figures) == {
        "step": {"torch_over_jax": 1.5},
        "attention": {"torch_flash_over_jax_cudnn": 2.0},
    }


@pytest.mark.slow
def test_every_phase_runs_with_the_toy(tmp_path):
    report = run_tiny(tmp_path / "report.json")
    assert report["not_measured"] == []
    by_name = {(figure["name"], figure["side"]): figure for figure in report["figures"]}
    assert list(by_name) == sum(names(tiny_size()).values(), [])
    for (name, side), figure in by_name.items():
        if name.startswith("training_step"):
            assert figure["batch"] == 2 and figure["pairs_per_s"] == pytest.approx(2 / figure["median_s"])
            assert figure.get("microbatches", 1) == 1
        if (name.startswith("training_step"), side) == (True, "jax"):
            assert figure["flops"] > figure["mmdit_flops"] > 0 and figure["refused_batches"] == []
            assert figure["mfu"] is None and figure["mfu_mmdit"] is None  # the peak of a CPU is unknown
        if name.startswith(("text_to_image", "image_to_text")):
            assert figure["examples_per_s"] == pytest.approx(figure["batch"] / figure["median_s"])
        if name.startswith("image_to_text"):
            assert 1 <= figure["mean_evaluations"] <= 3
    step, encoded = (by_name[name, "jax"] for name in ("training_step", "training_step_encoded"))
    assert step["flops"] > encoded["flops"]
    errors = by_name["bfloat16_error", "jax"]["relative_errors"]
    assert set(errors) == {"text_embeddings", "velocity", "logits"}
    assert all(2.0**-12 < error < 0.05 for error in errors.values())
    assert max(by_name["agreement", "both"]["relative_differences"].values()) <= 1e-4
    assert {"training_step", "text_to_image_1", "image_to_text_2", "matmul"} <= report["ratios"].keys()
    assert set(report["ratios"]["training_step"]) == {"torch_over_jax", "torch_compiled_over_jax"}
