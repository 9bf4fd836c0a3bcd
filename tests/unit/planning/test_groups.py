"""Groups of collectives, and the bytes that their members send."""

import pytest

from dualdiff_jax.planning.groups import bytes_sent, first_group, is_across

ONE_NODE, TWO_NODES = [0] * 8, [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "written, members",
    [
        ("replica_groups={{0,2},{1,3}}", [0, 2]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['axis_0'=8] {'axis_0'}", list(range(8))),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}", [0, 1, 2, 3]),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}", [0, 4]),
        ("replica_groups=mesh['data'=2,'fsdp'=2,'tensor'=2] {'data','tensor'}", [0, 1, 4, 5]),
        ("replica_groups=mesh['fsdp'=8] {'fsdp':(1)2}", [0, 4]),
        ("replica_groups=mesh['fsdp'=8] {'fsdp':(2)2}", [0, 2]),
        ("replica_groups={}", list(range(8))),
    ],
)
def test_a_group_is_read_in_every_notation(written, members):
    assert first_group(f"%x = f32[4] all-reduce(%p), channel_id=1, {written}, to_apply=%add", 8) == members


@pytest.mark.parametrize(
    "kind, result, total, across",
    [
        ("all-gather", 80, 70, 10),  # each of 4 in a node brings in a quarter of the other node's half
        ("reduce-scatter", 10, 70, 10),
        ("all-reduce", 80, 140, 20),
        ("all-to-all", 80, 70, 40),  # half of each member's data is for the other node
    ],
)
def test_bytes_that_a_member_sends(kind, result, total, across):
    assert bytes_sent(kind, result, range(8), ONE_NODE) == (total, 0)
    assert bytes_sent(kind, result, range(8), TWO_NODES) == (total, across)


def test_one_member_sends_nothing():
    assert bytes_sent("all-reduce", 80, [3], ONE_NODE) == (0, 0)


def test_replicas_of_shards_send_their_sums_across():
    """One device of each node: everything goes across."""
    assert bytes_sent("all-reduce", 80, [0, 4], TWO_NODES) == (80, 80)


def test_a_permute_across_nodes():
    assert is_across("collective-permute(%p), source_target_pairs={{0,1},{3,4}}", TWO_NODES)
    assert not is_across("collective-permute(%p), source_target_pairs={{0,1},{4,7}}", TWO_NODES)
