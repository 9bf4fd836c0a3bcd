"""Laws of the table from logical axes to mesh axes, and of its replacement by a run."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import rules_of, weight_shardings
from dualdiff_jax.sharding import (
    ACTIVATIONS,
    DEFAULT_RULES,
    MESH_AXES,
    ShardingRules,
    batch_parts,
    constrain,
    current_rules,
    make_mesh,
    rules_in_force,
    with_mesh,
)
from tests.unit.tiny import CONFIG

MESH = AbstractMesh((2, 2, 2, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 4)
MLP = jax.ShapeDtypeStruct((8, 4, 6), jnp.float32)
WHOLE_MLP = DEFAULT_RULES.replaced([("mlp",)])


def specs(jaxpr: jax.extend.core.Jaxpr) -> list[PartitionSpec]:
    """The specs of all sharding constraints in a program, including those inside jitted functions."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sharding_constraint":
            found.append(equation.params["sharding"].spec)
        if "jaxpr" in equation.params:
            found += specs(equation.params["jaxpr"].jaxpr)
    return found


def constraint(program) -> PartitionSpec:
    """The one constraint that ``program`` puts on an ``mlp`` activation over ``MESH``."""
    with jax.sharding.use_abstract_mesh(MESH):
        [spec] = specs(jax.make_jaxpr(program)(MLP).jaxpr)
    return spec


def test_the_default_table():
    """Parameters are split by width over fsdp; heads, mlp and vocabulary over tensor; the rest is whole."""
    split = {axis: mesh_axes for axis, mesh_axes in DEFAULT_RULES.rows if mesh_axes}
    assert split == {
        "batch": ("data", "fsdp"),
        "sequence": ("context",),
        "width": ("fsdp",),
        "heads": ("tensor",),
        "mlp": ("tensor",),
        "vocab": ("tensor",),
    }


def test_a_table_is_a_value():
    same = ShardingRules(DEFAULT_RULES.rows)
    assert same == DEFAULT_RULES and hash(same) == hash(DEFAULT_RULES) and same != WHOLE_MLP
    with pytest.raises(AttributeError):
        same.rows = ()


@pytest.mark.parametrize(
    "rows, message",
    [
        ([("width", ("fsdp",)), ("width", ())], "logical axis 'width' has two rows"),
        ([("width", ("rows",))], "'width' goes to 'rows', which is no mesh axis; give data, fsdp, tensor, context"),
        ([("width", ("fsdp", "fsdp"))], "'width' goes to mesh axis 'fsdp' twice"),
    ],
)
def test_a_table_that_is_wrong_cannot_be_built(rows, message):
    with pytest.raises(ValueError, match=message):
        ShardingRules(tuple(rows))


def test_rows_are_replaced_one_by_one():
    rules = DEFAULT_RULES.replaced([("mlp", "tensor", "context"), ("vocab",)])
    assert rules.mesh_axes("mlp") == ("tensor", "context") and rules.mesh_axes("vocab") == ()
    changed = {axis for axis, mesh_axes in rules.rows if DEFAULT_RULES.mesh_axes(axis) != mesh_axes}
    assert changed == {"mlp", "vocab"} and len(rules.rows) == len(DEFAULT_RULES.rows)


def test_a_run_without_rows_of_its_own_has_the_default_table():
    assert rules_of(MeshConfig(), CONFIG) == DEFAULT_RULES


@pytest.mark.parametrize(
    "rows, message",
    [
        ((("wdith", "fsdp"),), "^mesh.rules: 'wdith' is no logical axis; give one of batch, "),
        ((("width", "tensor"),), r"^mesh.rules: mmdit\.\S+: two dims of .*'width'.* both go to mesh axis 'tensor'"),
        ((("sequence", "fsdp"),), "^mesh.rules: activation 'stream': two dims of .* both go to mesh axis 'fsdp'"),
    ],
)
def test_a_run_with_a_wrong_row_is_refused(rows, message):
    with pytest.raises(UserError, match=message):
        rules_of(MeshConfig(rules=rows), CONFIG)
    assert current_rules() == DEFAULT_RULES


def test_a_replaced_row_moves_leaves():
    kernel = "mmdit.blocks.image.mlp_in.kernel"
    assert weight_shardings(CONFIG, MESH)[kernel].spec == PartitionSpec(None, "fsdp", "tensor")
    rules = rules_of(MeshConfig(rules=(("width", "fsdp", "data"), ("mlp",))), CONFIG)
    with rules_in_force(rules):
        found = weight_shardings(CONFIG, MESH)
    assert found[kernel].spec == PartitionSpec(None, ("fsdp", "data"), None)
    assert found[kernel].shard_shape((2, 16, 32)) == (2, 4, 32)
    assert weight_shardings(CONFIG, MESH)[kernel].spec == PartitionSpec(None, "fsdp", "tensor")


def test_a_replaced_row_moves_activations_and_batches():
    assert constraint(lambda x: constrain(x, "mlp")) == PartitionSpec(("data", "fsdp"), "context", "tensor")
    assert batch_parts(MESH) == 4
    with rules_in_force(DEFAULT_RULES.replaced([("batch", "data"), ("mlp",)])):
        assert constraint(lambda x: constrain(x, "mlp")) == PartitionSpec("data", "context", None)
        assert batch_parts(MESH) == 2


def test_a_program_is_traced_anew_under_another_table():
    """And not under one that is equal."""
    traced = []

    @jax.jit
    def program(x):
        traced.append(current_rules())
        return constrain(x, "mlp")

    x = jnp.ones(MLP.shape)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        for rules in (DEFAULT_RULES, WHOLE_MLP, ShardingRules(WHOLE_MLP.rows), DEFAULT_RULES):
            with rules_in_force(rules):
                np.testing.assert_array_equal(program(x), x)
    assert traced == [DEFAULT_RULES, WHOLE_MLP]
    both = []
    for rules in (DEFAULT_RULES, WHOLE_MLP):
        with rules_in_force(rules):
            both.append(constraint(program)[-1])
    assert both == ["tensor", None]


def test_a_program_keeps_the_table_under_which_it_was_wrapped():
    mesh, seen = make_mesh(MeshConfig(), jax.devices()[:1]), []

    def program(x):
        seen.append((current_rules(), jax.sharding.get_abstract_mesh() == mesh.abstract_mesh))
        return x

    with rules_in_force(WHOLE_MLP):
        wrapped = with_mesh(mesh, jax.jit(program))
    wrapped(1.0)
    wrapped.lower(jnp.ones(3))
    assert seen == [(WHOLE_MLP, True)] * 2
    assert current_rules() == DEFAULT_RULES and jax.sharding.get_abstract_mesh().empty


def test_a_table_is_in_force_in_one_thread_and_until_an_error():
    found = []
    with pytest.raises(ZeroDivisionError), rules_in_force(WHOLE_MLP):
        thread = threading.Thread(target=lambda: found.append(current_rules()))
        thread.start()
        thread.join()
        assert current_rules() == WHOLE_MLP
        raise ZeroDivisionError
    assert found == [DEFAULT_RULES] and current_rules() == DEFAULT_RULES


def test_activations_are_named():
    with pytest.raises(
        ValueError, match="activation 'steam' is none of stream, qkv, parts, heads, attention, mlp, convolution"
    ):
        constrain(jnp.ones(3), "steam")
    x = jnp.ones((2, 3))
    assert all(constrain(x, kind) is x for kind in ACTIVATIONS)  # without a mesh
