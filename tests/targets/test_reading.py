"""What plans read off programs that real compilers made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dualdiff_jax.hardware import CHIPS
from dualdiff_jax.planning import report
from dualdiff_jax.planning.cost import program_flops
from dualdiff_jax.planning.hlo import parse
from dualdiff_jax.planning.kernels import kernels
from dualdiff_jax.planning.reading import reading
from tests.targets.compiled import small_config, step_on

pytestmark = pytest.mark.targets

TRAINING = (("h100:8", 24), ("v5e:4x4", 48))  # three pairs a device
NEW_CHIPS = ("b200:1", "tpu7x:1x1x1")
TPUS = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")


@pytest.mark.parametrize("topology, batch", TRAINING)
def test_the_reading_of_a_step_has_the_operations_of_its_networks_and_no_more_speed_than_the_chip(topology, batch):
    """Attention's operations count again: its scores backward, and under ``dots`` its forward pass."""
    step, chip = step_on(topology, batch), CHIPS[topology.split(":")[0]]
    flops = sum(program_flops(small_config(batch=batch), "train", batch).values()) / step.mesh.size
    found = reading(parse(step.executable.as_text()), chip, flops)
    assert 1.0 <= found["operations"] / flops < 1.3
    products, attention = found["kinds"]["products"], found["kinds"]["attention"]
    assert products["seconds"] >= products["operations"] / chip.flops
    assert attention["operations"] > 0 and attention["seconds"] >= 0.999 * attention["operations"] / chip.flops
    assert 0 < found["mfu"] < 1
    assert "mlp, backward" in {row["place"] for row in found["places"]}


@pytest.mark.parametrize("topology", NEW_CHIPS)
def test_a_plan_for_a_chip_of_today(topology):
    found = report.plan(small_config(batch=4, depth=2, width=128), topology)
    assert found["memory"]["fits"]
    assert found["as_compiled"]["kinds"]["attention"]["kernels"] > 0
    assert found["as_compiled"]["kinds"]["products"]["seconds"] > 0


@pytest.mark.parametrize("topology", TPUS)
def test_a_large_product_takes_a_little_longer_than_at_a_tpus_peak(topology):
    """So the clock that cycles are divided by fits the compiler's idea of the chip."""
    target = report._open(topology)
    mesh = Mesh(np.array(target.devices), ("rows",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*names)) for names in (("rows",), ()))
    x = jax.ShapeDtypeStruct((8192 * len(target.devices), 8192), jnp.bfloat16, sharding=split)
    w = jax.ShapeDtypeStruct((8192, 8192), jnp.bfloat16, sharding=whole)
    text = jax.jit(jnp.matmul).lower(x, w).compile().as_text()
    (product,) = [kernel for kernel in kernels(parse(text), target.chip) if kernel.kind == "products"]
    assert product.operations == 2 * 8192**3
    assert 1.0 < product.seconds / (product.operations / target.chip.flops) < 1.5
