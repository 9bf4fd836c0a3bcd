"""Laws of the mesh and of the table from logical axes to mesh axes."""

import logging
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.leaves import LeafSpec
from dualdiff_jax.sharding import (
    DEFAULT_RULES,
    MESH_AXES,
    MICROBATCH,
    SMALL_LEAF,
    batch_sharding,
    check_batch,
    fitting_spec,
    leaf_sharding,
    make_mesh,
    mesh_sizes,
    nodes_of,
    partition_spec,
    replicated,
    rules_in_force,
    warn_unsharded,
)
from dualdiff_jax.sharding import mesh as mesh_module
from dualdiff_jax.sharding.mesh import _across_nodes

ONE_DEVICE = jax.devices()[:1]


def abstract_mesh(data: int = 1, fsdp: int = 8, tensor: int = 1, context: int = 1) -> AbstractMesh:
    """Eight devices that are not here."""
    return AbstractMesh((data, fsdp, tensor, context), MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def test_the_table_is_read_dim_by_dim():
    assert partition_spec(("layers", "width", "projection", "heads")) == PartitionSpec(None, "fsdp", None, "tensor")
    assert partition_spec(("batch", None, "token")) == PartitionSpec(("data", "fsdp"), None, None)


@pytest.mark.parametrize(
    "axes, mesh_axis", [(("width", "width"), "fsdp"), (("heads", "mlp"), "tensor"), (("batch", "width"), "fsdp")]
)
def test_two_dims_on_one_mesh_axis_are_an_error(axes, mesh_axis):
    with pytest.raises(ValueError, match=f"{axes[0]!r}, {axes[1]!r}.* both go to mesh axis {mesh_axis!r}"):
        partition_spec(axes)


def test_an_axis_that_the_table_lacks_is_an_error():
    with pytest.raises(ValueError, match="'wdith' is no logical axis; give one of batch, sequence, width"):
        partition_spec(("wdith",))


def test_the_one_rule_splits_what_divides_and_keeps_the_rest_whole():
    """What does not divide is named, dim by dim; a mesh axis of one device splits nothing and always divides."""
    mesh, axes = abstract_mesh(data=2, fsdp=2, tensor=2), ("batch", "sequence", "heads")
    assert fitting_spec(mesh, (8, 3, 4), axes) == (PartitionSpec(("data", "fsdp"), "context", "tensor"), [])
    assert fitting_spec(mesh, (6, 3, 4), axes) == (PartitionSpec(None, "context", "tensor"), [0])
    assert fitting_spec(mesh, (6, 3, 5), axes) == (PartitionSpec(None, "context", None), [0, 2])
    with pytest.raises(ValueError):
        fitting_spec(mesh, (8, 3), axes)


def test_a_leaf_that_divides_is_sharded():
    sharding = leaf_sharding(abstract_mesh(), "some.kernel", (16, 3), ("width", None))
    assert sharding.spec == PartitionSpec("fsdp", None)
    assert sharding.shard_shape((16, 3)) == (2, 3)


def test_a_small_leaf_that_does_not_divide_stays_whole_and_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="dualdiff_jax.sharding.placement"):
        sharding = leaf_sharding(abstract_mesh(), "some.bias", (12,), ("width",))
    assert sharding.is_fully_replicated
    [record] = caplog.records
    assert record.getMessage() == "some.bias (12,) stays whole along width: 12 does not divide by 8"


def test_leaves_that_stay_whole_get_one_warning_once(caplog):
    mesh, axes = abstract_mesh(), {"a.kernel": ("width",), "b.bias": ("width",), "c.bias": ("width", None)}
    shapes = {"a.kernel": (16,), "b.bias": (12,), "c.bias": (4, 3)}
    shardings = {name: leaf_sharding(mesh, name, shapes[name], axes[name]) for name in axes}
    for _ in range(2):
        warn_unsharded(shardings, axes)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("2 of 3 leaves")
    assert "b.bias, c.bias (" in record.getMessage() and "a.kernel" not in record.getMessage()


def test_a_leaf_that_divides_is_not_logged(caplog):
    with caplog.at_level(logging.INFO, logger="dualdiff_jax.sharding.placement"):
        leaf_sharding(abstract_mesh(), "some.bias", (16,), ("width",))
    assert not caplog.records


def test_a_big_leaf_that_does_not_divide_is_an_error_with_its_name():
    with pytest.raises(UserError, match=r"^some\.kernel: width has size 12, which does not divide over the 8 devices"):
        leaf_sharding(abstract_mesh(), "some.kernel", (12, SMALL_LEAF), ("width", None))
    almost_big = (12, SMALL_LEAF // 12)
    assert leaf_sharding(abstract_mesh(), "some.kernel", almost_big, ("width", None)).is_fully_replicated


def test_a_leaf_has_one_axis_a_dim():
    with pytest.raises(ValueError):
        leaf_sharding(abstract_mesh(), "some.kernel", (16, 3), ("width",))


def test_the_mesh_has_all_axes_and_by_default_all_devices():
    mesh = make_mesh(MeshConfig())
    assert mesh.axis_names == MESH_AXES
    assert dict(mesh.shape) == {"data": 1, "fsdp": len(jax.devices()), "tensor": 1, "context": 1}
    assert make_mesh(MeshConfig(), ONE_DEVICE).size == 1


def test_a_mesh_of_another_size_than_the_machine_is_an_error():
    with pytest.raises(UserError, match="data 1, fsdp 3, tensor 1, context 1 does not fit 1 devices"):
        make_mesh(MeshConfig(layout="sizes", fsdp=3), ONE_DEVICE)


@pytest.mark.parametrize(
    "fields, devices, nodes, sizes",
    [
        ({}, 8, 1, (1, 8, 1, 1)),
        ({"layout": "replicated"}, 8, 2, (8, 1, 1, 1)),
        ({"layout": "hybrid"}, 32, 4, (4, 8, 1, 1)),
        ({"layout": "hybrid", "tensor": 2}, 32, 4, (4, 4, 2, 1)),
        ({"tensor": 2, "context": 2}, 32, 4, (1, 8, 2, 2)),
        ({"layout": "sizes", "data": -1, "fsdp": 4}, 32, 1, (8, 4, 1, 1)),
        ({"layout": "sizes", "data": 2, "fsdp": 2, "tensor": 2}, 8, 1, (2, 2, 2, 1)),
    ],
)
def test_a_layout_decides_the_size_of_each_axis(fields, devices, nodes, sizes):
    assert mesh_sizes(MeshConfig(**fields), devices, nodes) == sizes


def test_a_layout_that_is_unknown_is_an_error():
    with pytest.raises(ValueError, match="mesh layout 'fspd' is none of replicated, fsdp, hybrid, sizes"):
        mesh_sizes(SimpleNamespace(layout="fspd"), 8, 1)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"tensor": 3}, "tensor 3, context 1 does not fit 8 devices"),
        ({"layout": "sizes", "data": 2, "fsdp": 2}, "their product must be 8"),
        ({"layout": "hybrid", "tensor": 16}, "sizes that divide it: 1, 2, 4, 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_those_that_would(fields, message):
    with pytest.raises(UserError, match=message):
        mesh_sizes(MeshConfig(**fields), 8, 1)


@pytest.mark.parametrize(
    "sizes, nodes, across",
    [
        ((4, 8, 1, 1), 4, (4, 1, 1, 1)),
        ((1, 32, 1, 1), 4, (1, 4, 1, 1)),
        ((2, 16, 1, 1), 4, (2, 2, 1, 1)),
        ((8, 4, 1, 1), 1, (1, 1, 1, 1)),
    ],
)
def test_replicas_lie_across_nodes_before_shards_do(sizes, nodes, across):
    assert _across_nodes(sizes, nodes) == across


class Device:
    def __init__(self, platform, process, node=None):
        self.platform, self.process_index = platform, process
        if node is not None:
            self.slice_index = node


@pytest.mark.parametrize(
    "devices, nodes",
    [
        ([Device("cpu", process) for process in (0, 0, 1, 1)], [0, 0, 0, 0]),
        ([Device("tpu", process, 0) for process in (0, 0, 1, 1)], [0, 0, 0, 0]),
        ([Device("tpu", process, process // 2) for process in (0, 1, 2, 3)], [0, 0, 1, 1]),
        ([Device("gpu", process, 0) for process in (0, 0, 1, 1)], [0, 0, 1, 1]),
        ([Device("gpu", process, process // 2) for process in (0, 1, 2, 3)], [0, 0, 1, 1]),
        ([Device("gpu", process, 0) for process in (0, 1, 2, 3)], [0, 0, 0, 0]),
        ([Device("gpu", 0) for _ in range(4)], [0, 0, 0, 0]),
    ],
)
def test_nodes_are_slices_or_nvlink_domains_and_otherwise_processes(devices, nodes):
    assert nodes_of(devices) == nodes


@pytest.mark.parametrize("slices, by_process", [((0, 1), False), ((0, 0), True)])
def test_a_mesh_over_nodes_is_arranged_by_slices_where_there_are_some(monkeypatch, slices, by_process):
    """Without slices a node is a process."""
    given = []

    def arrange(within, across, devices, process_is_granule):
        given.append(process_is_granule)
        return np.asarray(jax.devices()[:1] * len(devices)).reshape(np.multiply(within, across))

    monkeypatch.setattr(mesh_utils, "create_hybrid_device_mesh", arrange)
    monkeypatch.setattr(mesh_module, "Mesh", lambda arranged, *args, **more: type("Shape", (), {"shape": {}}))
    devices = [Device("gpu", process, node) for process, node in zip((0, 0, 1, 1), np.repeat(slices, 2), strict=True)]
    make_mesh(MeshConfig(layout="hybrid"), devices)
    assert given == [by_process]


def test_tensor_and_context_stay_inside_a_node():
    with pytest.raises(UserError, match="tensor and context must lie inside a node"):
        _across_nodes((1, 2, 8, 2), 4)


def test_batches_are_split_over_data_and_fsdp():
    assert batch_sharding(abstract_mesh(data=2, fsdp=4)).shard_shape((16, 5)) == (2, 5)
    assert replicated(abstract_mesh()).shard_shape((16, 5)) == (16, 5)


@pytest.mark.parametrize("mesh", [abstract_mesh(fsdp=8), abstract_mesh(data=2, fsdp=4)])
def test_a_batch_must_divide_over_the_devices_that_share_it(mesh):
    check_batch(mesh, 24, MICROBATCH)
    for size in (12, 4):
        named = f"^train.global_batch_size / train.microbatches is {size}, which does not divide over 8 devices"
        with pytest.raises(UserError, match=named):
            check_batch(mesh, size, MICROBATCH)


def test_tensor_and_context_devices_do_not_divide_the_batch():
    check_batch(abstract_mesh(fsdp=2, tensor=2, context=2), 2, MICROBATCH)


def mesh_of_processes(processes: int, **sizes: int) -> Mesh:
    """Eight devices in mesh order, the first of them the first process's."""
    devices = np.array([Device("cpu", index * processes // 8) for index in range(8)])
    return Mesh(devices.reshape(abstract_mesh(**sizes).axis_sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 4)


@pytest.mark.parametrize(
    "processes, sizes, batch, is_shared",
    [
        (1, {"fsdp": 1, "tensor": 8}, ("data", "fsdp"), False),
        (2, {"fsdp": 8}, ("data", "fsdp"), False),
        (2, {"fsdp": 2, "tensor": 4}, ("data", "fsdp"), False),
        (2, {"fsdp": 1, "tensor": 8}, ("data", "fsdp"), True),
        (4, {"fsdp": 2, "context": 4}, ("data", "fsdp"), True),
        (8, {"fsdp": 4, "tensor": 2}, ("data", "fsdp"), True),
        (2, {"data": 2, "fsdp": 4}, ("data",), False),
        (2, {"data": 1, "fsdp": 8}, ("data",), True),
        (2, {"fsdp": 8}, (), True),
    ],
)
def test_processes_may_not_share_a_part_of_the_batch(processes, sizes, batch, is_shared):
    """Each reads records of its own, so the devices that share rows would hold different ones."""
    mesh = mesh_of_processes(processes, **sizes)
    with rules_in_force(DEFAULT_RULES.replaced([("batch", *batch)])):
        if not is_shared:
            return check_batch(mesh, 8, MICROBATCH)
        with pytest.raises(UserError, match="devices of several processes would hold the same rows"):
            check_batch(mesh, 8, MICROBATCH)


def test_a_leaf_that_does_not_exist_yet_has_its_place():
    sharding = replicated(make_mesh(MeshConfig(), jax.devices()[:1]))
    leaf = LeafSpec((2, 3), np.dtype("float32"), ("width", None), True).abstract(sharding)
    assert (leaf.shape, leaf.dtype, leaf.sharding) == ((2, 3), np.float32, sharding)
