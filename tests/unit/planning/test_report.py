"""A plan of the small run for this machine's own device: every stage except the compilers of other machines."""

import dataclasses
import importlib.util
import json
import math
import sys

import jax
import numpy as np
import pytest
from jax.experimental import topologies

from dualdiff_jax.errors import UserError
from dualdiff_jax.hardware import CHIPS, GIB
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.planning import programs, report, topology
from dualdiff_jax.planning.topology import Topology, open_topology
from dualdiff_jax.sharding import current_rules, make_mesh
from tests.small_run import small_run

CHIP = dataclasses.replace(CHIPS["h100"], name="a CPU", platform="cpu", memory=1 << 28)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("plan"))[0]


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(report, "_open", lambda name: Topology(name, CHIP, 1, jax.devices()[:1]))


@pytest.mark.parametrize("program", programs.PROGRAMS)
def test_every_program_is_compiled_and_its_memory_adds_up(here, config, program):
    found = report.plan(config, "here", program)
    memory = found["memory"]
    named = {name: size for name, size in memory.items() if name in NAMED}
    assert memory["total"] == memory["arguments"] + memory["results"] + memory["temporaries"]
    used = sum(named.values()) - unused_bytes(config, program)
    assert 0.98 * (memory["arguments"] - constant_bytes(config, program)) <= used <= 1.02 * memory["arguments"]
    assert memory["fits"] and found["largest_batch_at_least"] > found["batch"]
    assert found["collectives"] == {}
    assert found["flops"]["total"] == pytest.approx(sum(v for k, v in found["flops"].items() if k != "total"))
    compiled = found["as_compiled"]
    share = compiled["operations"] / found["flops"]["total"]
    least = 0.9 if program.startswith("train") else 0.65  # samplers leave out what only the other output needs
    assert least < share < 1.1
    assert compiled["bytes"] > 0
    assert sum(kind["kernels"] for kind in compiled["kinds"].values()) == compiled["kernels"] > 0
    assert 0 < compiled["mfu"] < 1
    assert json.loads(json.dumps(found)) == found
    page = report.table(found)
    assert f"{program} on here: 1 a CPU, mesh one device" in page and "fits, 0." in page
    assert f"MFU at most {100 * compiled['mfu']:.1f} %" in page and compiled["places"][0]["place"] in page


def constant_bytes(config, program: str) -> int:
    """Those of the empty caption's embeddings, a constant of the program that some versions of JAX make an argument."""
    return 2 * config.data.text_length * config.model.t5.width if program == "train_encoded" else 0


def unused_bytes(config, program: str) -> int:
    """Bytes of the weights that a sampler leaves out: a head, and what the last block computes for it alone."""
    if program.startswith("train"):
        return 0
    stream, head = ("text", "text_out") if program == "text_to_image" else ("image", "image_")
    after_attention = [f"mmdit.blocks.{stream}.{part}." for part in ("attention_out", "mlp_in", "mlp_out")]
    total = 0
    for name, spec in leaf_specs(config.model).items():
        size = math.prod(spec.shape) * np.dtype(config.model.compute_dtype if spec.trainable else spec.dtype).itemsize
        if name.startswith(tuple(after_attention)):
            total += size // config.model.mmdit.depth
        elif name.startswith((f"mmdit.{head}", "mmdit.null_image")):
            total += size
    return total


NAMED = ("parameters", "averages", "optimizer", "frozen", "batch")


def test_an_unknown_program_is_refused_with_the_choices(here, config):
    with pytest.raises(ValueError, match="'text_to_video' is none of train, train_encoded, text_to_image"):
        report.plan(config, "here", "text_to_video")


@pytest.mark.parametrize("stream, other", [("image", "text"), ("text", "image")])
def test_only_streams_that_have_weight_are_planned(config, stream, other):
    """The other stream needs neither a batch nor a source."""
    objective = dataclasses.replace(config.objective, **{f"{other}_weight": 0.0})
    sources = tuple(source for source in config.data.sources if source.stream == stream)
    data = dataclasses.replace(config.data, sources=sources)
    one = dataclasses.replace(config, objective=objective, data=data)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        lowered, arguments, examples, _ = programs.PROGRAMS["train"](one, mesh)
    assert getattr(arguments["batch"], other) is None and examples == config.train.global_batch_size
    abstract = jax.tree.leaves(lowered.args_info[0][-1])
    assert {leaf.shape[0] for leaf in abstract} == {examples}
    assert len(abstract) == len(getattr(arguments["batch"], stream)) == 3


def test_the_sharding_rules_of_the_run_are_in_force(here, config, monkeypatch):
    def lower(config, mesh):
        raise UserError(f"width goes to {current_rules().mesh_axes('width')}")

    monkeypatch.setitem(programs.PROGRAMS, "train", lower)
    mesh = dataclasses.replace(config.mesh, rules=(("width", "fsdp", "context"),))
    with pytest.raises(UserError, match="width goes to .'fsdp', 'context'."):
        report.plan(dataclasses.replace(config, mesh=mesh), "here")


def test_the_report_of_a_plan_that_does_not_fit_shows_by_how_much(here, config, monkeypatch):
    small = dataclasses.replace(CHIP, memory=1 << 10)
    monkeypatch.setattr(report, "_open", lambda name: Topology(name, small, 1, jax.devices()[:1]))
    found = report.plan(config, "here")
    assert not found["memory"]["fits"] and found["largest_batch_at_least"] == 0
    assert "does not fit" in report.table(found) and "too much" in report.table(found)


@pytest.mark.parametrize("multiple, largest", [(1, 23), (4, 20), (8, 16), (24, 0)])
def test_the_largest_batch_leaves_room_for_its_own_arguments_and_divides(multiple, largest):
    """A pair takes 30 + 10 bytes; 1000 - 60 remain for them, the results included in the 60."""
    sizes = {"arguments": 50 + 4 * 10, "batch": 4 * 10, "results": 10, "temporaries": 4 * 30, "available": 1000}
    assert report._largest(4, sizes, multiple) == largest
    assert report._largest(4, sizes | {"available": 60}, multiple) == 0


def test_a_plan_of_text_to_image_counts_no_decoder(here, config):
    found = report.plan(config, "here", "text_to_image")
    assert found["flops"].keys() == {"mmdit", "t5", "total"}
    page = report.table(found)
    assert "or more fits (temporaries taken as proportional, without the autoencoder)" in page
    assert "the program ends at latents; the decoder, which it does not run, comes on top" in page
    assert "ends at latents" not in report.table(report.plan(config, "here", "image_to_text"))


HBM = "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO \
temporaries (18.50G) exceeds available HBM (15.75G). HLO module: jit_step."
OLDER = (
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M of 15.75G hbm. Exceeded hbm capacity by"
)


def test_the_memory_needed_is_read_from_the_compilers_error():
    assert programs.bytes_needed(HBM) == int(18.5 * GIB)
    assert programs.bytes_needed(OLDER) == GIB // 2
    assert programs.bytes_needed("RESOURCE_EXHAUSTED: no more handles") == 0
    assert programs.bytes_needed("INTERNAL: Used 512.00M of 15.75G hbm") == 0


def test_a_program_that_the_compiler_refuses_does_not_fit(here, config, monkeypatch):
    class Lowered:
        error = HBM

        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(self.error)

    train = programs.PROGRAMS["train"]
    monkeypatch.setitem(programs.PROGRAMS, "train", lambda *args: train(*args)._replace(lowered=Lowered()))
    found = report.plan(config, "here")
    memory = found["memory"]
    assert (
        not memory["fits"]
        and memory["total"] == int(18.5 * GIB)
        and found["collectives"] is found["as_compiled"] is None
    )
    assert memory["arguments"] == sum(size for name, size in memory.items() if name in NAMED)
    assert "18.50  of 0.2: does not fit, 18.25 too much" in report.table(found) and "not counted" in report.table(found)
    Lowered.error = "INTERNAL: a fault of the compiler"
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault of the compiler"):
        report.plan(config, "here")


def searched(monkeypatch, config, bytes_of) -> tuple[list[int], list[int]]:
    """(the batch found for each policy, every batch that was compiled), with 200 bytes available."""
    sizes = []

    def pretend(config, name, program="train"):
        size = config.train.global_batch_size
        sizes.append(size)
        total = bytes_of(config.train.remat, size)
        return {"batch": size, "memory": {"total": total, "available": 200, "fits": total <= 200}}

    monkeypatch.setattr(report, "plan", pretend)
    return [page["batch"] for page in report.search(config, "here")], sizes


def test_the_search_finds_the_largest_batch_of_each_policy(here, config, monkeypatch):
    found, sizes = searched(monkeypatch, config, lambda policy, n: 100 + n * (2 if policy == "full" else 30))
    assert found == [3, 3, 3, 50]
    assert sizes == [1, 2, 3, 4] * 3 + [1, 2, 50, 51]  # batches that do not fit are tried too


def test_a_search_draws_a_new_line_where_memory_leaves_the_first(here, config, monkeypatch):
    """An example takes 10 bytes; from the eleventh on, 30."""
    found, sizes = searched(monkeypatch, config, lambda policy, n: 10 * n + 20 * max(0, n - 10))
    assert found == [13] * len(report.POLICIES) and sizes[:6] == [1, 2, 20, 10, 13, 14]
    found, sizes = searched(monkeypatch, config, lambda policy, n: 40 * n if n < 3 else 70 + 10 * n)
    assert found == [13] * len(report.POLICIES) and sizes[:6] == [1, 2, 5, 11, 13, 14]


def test_a_search_where_nothing_fits_reports_the_smallest(here, config, monkeypatch):
    found, sizes = searched(monkeypatch, config, lambda policy, n: 200 + n)
    assert found == [1] * len(report.POLICIES) and max(sizes) == 2


@pytest.mark.parametrize("name", ["h300:8", "v5p", "v5p:", "h100:", "h100:2x2x2", "a machine", "v5p:4xx4"])
def test_an_unknown_topology_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match="names look like v4:2x2x2, v5e:4x4"):
        open_topology(name)


@pytest.mark.parametrize("name, advice", [("v5e:4x4", "pip install libtpu"), ("h100:8", "jax\\[cuda12\\]")])
def test_the_error_about_a_missing_compiler_names_its_package(name, advice, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)

    def absent(*args, **kwargs):
        raise RuntimeError("no such plugin")

    monkeypatch.setattr(topology.topologies, "get_topology_desc", absent)
    with pytest.raises(UserError, match=advice):
        open_topology(name)


def test_where_two_batches_did_not_fit_the_next_guess_is_halfway():
    """A compiler's memory does not grow evenly with the batch, so the line may miss again and again."""
    assert report._guess({1: 10, 101: 1110}, 1000) == 91
    assert report._guess({1: 10, 101: 1110, 91: 1010}, 1000) == 46
    assert report._guess({1: 10, 101: 1110, 91: 1010, 46: 700}, 1000) == 68


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100:0", "--topology=h100:0: has no devices"),
        ("v5e:0x4", "--topology=v5e:0x4: has no devices"),
        ("h100:2x2x2", "give the number of GPUs, or nodes x GPUs of each"),
        ("h100:16", "a node has up to 8 GPUs; give nodes x GPUs, as in h100:2x8"),
        ("h200:2x12", "a node has up to 8 GPUs; give nodes x GPUs, as in h200:3x8"),
        ("gb200:73", "a node has up to 72 GPUs; give nodes x GPUs, as in gb200:2x72"),
        ("gb200:72", "--topology=gb200:72: needs JAX's CUDA plugin"),
        ("h100:8", "--topology=h100:8: needs JAX's CUDA plugin; run: pip install"),
    ],
)
def test_a_topology_that_cannot_be_is_refused(name, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        open_topology(name)


def test_the_compilers_reason_is_told(monkeypatch):
    def refuse(**_):
        raise RuntimeError("another version is expected")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "jax_cuda13_plugin")
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match=r"the CUDA compiler refuses this shape \(another version is expected\)"):
        open_topology("h100:8")
