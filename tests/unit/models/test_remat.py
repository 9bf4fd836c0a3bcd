"""What each remat policy keeps of a block's forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dualdiff_jax.models import remat
from dualdiff_jax.models.attention import SAVED
from dualdiff_jax.models.linear import PRODUCT, Linear
from dualdiff_jax.models.remat import REMAT, rematerialised
from dualdiff_jax.models.stack import RunBlocks, scan_blocks, stacked

WIDTH = 3
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, WIDTH)), jnp.float32)
GRAPH, WEIGHTS = nnx.split(stacked(lambda rngs: Linear({"width": WIDTH}, {"width": WIDTH}, rngs=rngs), 2, nnx.Rngs(0)))


def gradient(run: RunBlocks):
    def block(module: nnx.Module, x: jax.Array) -> jax.Array:
        return x + checkpoint_name(jnp.tanh(module(jnp.sin(x))), SAVED)

    return jax.grad(lambda weights: run(nnx.merge(GRAPH, weights), block, X).sum())


@pytest.mark.parametrize("unrolled", [False, True])
@pytest.mark.parametrize("policy", ["none", "full", "save_attention", "dots"])
def test_a_policy_changes_no_gradient(policy, unrolled):
    found, expected = gradient(rematerialised(policy, unrolled=unrolled))(WEIGHTS), gradient(scan_blocks)(WEIGHTS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def kept(policy: str) -> set[str]:
    """Those of the two named values that the policy keeps on the device."""
    name_p = next(
        equation.primitive
        for equation in jax.make_jaxpr(lambda x: checkpoint_name(x, "a name"))(X).eqns
        if equation.primitive.name == "name"
    )
    return {name for name in (SAVED, PRODUCT, "another") if REMAT[policy]()(name_p, name=name) is True}


def test_each_policy_keeps_what_its_name_says():
    assert kept("full") == set()
    assert kept("save_attention") == {SAVED}
    assert kept("dots") == {SAVED, PRODUCT}


@pytest.mark.parametrize(("policy", "expected"), [("none", 6), ("dots", 6), ("full", 7)])
def test_a_policy_that_keeps_products_computes_none_twice(policy, expected):
    """Two forward, two for the gradients of each; one of the forward ones again where nothing is kept."""

    def block(module: nnx.Module, x: jax.Array) -> jax.Array:
        return module(jnp.tanh(module(x)))

    def loss(weights):
        return rematerialised(policy, unrolled=False)(nnx.merge(GRAPH, weights), block, X).sum()

    one = jax.tree.map(lambda leaf: leaf[:1], WEIGHTS)
    assert str(jax.make_jaxpr(jax.grad(loss))(one)).count(" dot_general[") == expected


def test_offload_moves_attention_to_the_hosts_pinned_memory_and_keeps_nothing_else(monkeypatch):
    asked = []
    monkeypatch.setattr(
        remat._policies, "save_and_offload_only_these_names", lambda **options: asked.append(options) or "a policy"
    )
    assert REMAT["offload"]() == "a policy"
    assert asked == [
        {
            "names_which_can_be_saved": [],
            "names_which_can_be_offloaded": [SAVED],
            "offload_src": "device",
            "offload_dst": "pinned_host",
        }
    ]


def test_an_unknown_policy_is_an_error():
    with pytest.raises(ValueError, match="remat policy 'dot' is none of none, full, save_attention, dots, offload"):
        rematerialised("dot", unrolled=False)
