"""Plans of a small model for real topologies."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dualdiff_jax.errors import UserError
from dualdiff_jax.hardware import GIB
from dualdiff_jax.models.attention import attention
from dualdiff_jax.planning import programs, report
from dualdiff_jax.planning.programs import bytes_needed
from dualdiff_jax.planning.topology import open_topology
from dualdiff_jax.sharding import MESH_AXES, make_mesh, nodes_of
from tests.targets.compiled import small_config

pytestmark = pytest.mark.targets

ROOT = Path(__file__).parents[2]


def tiny(batch: int = 4, **sections: dict):
    return small_config(batch=batch, depth=2, width=128, **sections)


@pytest.mark.parametrize("topology", ["h100:2", "v5e:2x2"])
def test_a_search_ends_at_the_largest_batch(topology, monkeypatch):
    monkeypatch.setattr(report, "POLICIES", ("full",))
    [found] = report.search(tiny(), topology)
    assert found["memory"]["fits"] and found["batch"] > 4 and found["remat"] == "full"
    assert found["memory"]["total"] > 0.8 * found["memory"]["available"]


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_a_refusal_of_a_tpu_compiler_is_reported_with_its_bytes(topology, monkeypatch):
    """The compiler's memory of a device is the one that we count with."""
    errors = []
    monkeypatch.setattr(programs, "bytes_needed", lambda text: errors.append(text) or bytes_needed(text))
    found = report.plan(tiny(16384, train={"remat": "full"}), topology)
    memory = found["memory"]
    assert f"exceeds available HBM ({memory['available'] / GIB:.2f}G)" in errors[0]
    assert f"({memory['total'] / GIB:.2f}G)" in errors[0] and not memory["fits"]
    assert "does not fit" in report.table(found) and 4 < found["largest_batch_at_least"] < 16384


@pytest.mark.parametrize("topology", ["h100:1", "v5e:2x2"])
@pytest.mark.parametrize("program", ["text_to_image", "image_to_text", "image_to_text_t5_8_bits"])
def test_samplers_are_planned(topology, program):
    found = report.plan(tiny(), topology, program)
    assert found["memory"]["fits"] and found["flops"]["total"] > 0


def test_replicas_of_several_nodes_send_little_across():
    """In a hybrid layout, weights are gathered inside a node, and only sums of gradient shards go across."""
    found = report.plan(tiny(16, mesh={"layout": "hybrid"}), "h100:2x8")["collectives"]
    assert found["all-gather"]["moved"] > 0 and found["all-gather"]["across"] == 0
    assert found["reduce-scatter"]["across"] == 0
    assert found["all-reduce"]["across"] > 0


def test_shards_lie_across_nodes_if_the_sizes_require_it():
    devices = list(open_topology("h100:2x8").devices)
    mesh = make_mesh(tiny(mesh={"layout": "sizes", "data": 1, "fsdp": 16}).mesh, devices)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 16, "tensor": 1, "context": 1}
    assert nodes_of(list(mesh.devices.flat)) == [0] * 8 + [1] * 8
    mesh = make_mesh(tiny(mesh={"layout": "sizes", "data": 2, "fsdp": 4, "tensor": 2}).mesh, devices)
    assert [len(set(nodes_of(list(replica.flat)))) for replica in mesh.devices] == [1, 1]


def test_a_shape_that_the_tpu_compiler_refuses_is_reported_with_the_known_ones():
    with pytest.raises(UserError, match="names look like v4:2x2x2"):
        open_topology("v5e:3x5")


def test_libtpu_knows_the_flags():
    """An unknown flag in LIBTPU_INIT_ARGS would end the process."""
    program = (
        "from dualdiff_jax.runtime import environment; environment.prepare();"
        "from dualdiff_jax.planning import report;"
        "print(len(report._open('v5e:2x2').devices))"
    )
    variables = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert process.stdout.strip() == "4", process.stderr[-2000:]


@pytest.mark.parametrize("length", [1280, 1152, 1000])
@pytest.mark.parametrize("tensor, context", [(1, 1), (2, 2)])
def test_the_tpu_kernel_takes_every_length_and_sharding(length, tensor, context):
    """Forward and gradient at head dim 64; with ``context``, each device has a part of the queries."""
    devices = np.array(open_topology("v5e:2x2").devices)
    shape = (1, len(devices) // (tensor * context), tensor, context)
    mesh = Mesh(devices.reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * 4)
    spec = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "context", "tensor", None))
    x = jax.ShapeDtypeStruct((8, length, 4, 64), jnp.bfloat16, sharding=spec)

    def loss(q, k, v):
        return attention(q, k, v, scale=0.125, kernel="splash").astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        text = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') >= 2
