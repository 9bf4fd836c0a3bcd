"""What runs beside a collective hides it; the rest of its time is alone. Figures by hand, in seconds."""

import pytest

from dualdiff_jax.hardware import Chip, Network
from dualdiff_jax.planning.hlo import parse
from dualdiff_jax.planning.waiting import lines, waiting

# A kernel takes its cycles in seconds; 1000 bytes take a second inside a node and ten to another one.
CHIP = Chip("toy", ("toy",), "tpu", 1e12, 1, 1e12, Network(1e3, 1e2), clock=1.0)
PAIRS = "channel_id=1, source_target_pairs={{0,1},{1,0}}"
PERMUTE = "collective-permute"


def start(name: str, seconds: int) -> str:
    array = f"f32[{250 * seconds}]{{0}}"
    return f"%{name} = ({array}, {array}) {PERMUTE}-start(%p), {PAIRS}"


def done(name: str) -> str:
    return f"%{name}.done = f32[250]{{0}} {PERMUTE}-done(%{name})"


def kernel(cycles: int, calls: str = "plain") -> str:
    return (
        f'%k{cycles} = f32[4] fusion(%p), kind=kLoop, calls=%{calls}, backend_config={{"estimated_cycles":"{cycles}"}}'
    )


def found(*entry: str, nodes: tuple[int, ...] = (0, 0)):
    body = "\n  ".join(entry)
    return waiting(parse(TEXT.replace("BODY", body)), CHIP, nodes)


TEXT = """HloModule step, num_partitions=2

%plain (p: f32[4]) -> f32[4] {
  ROOT %x = f32[4] negate(%p)
}

%piece (p: f32[4]) -> f32[4] {
  %g = f32[1250]{0} collective-permute(%p), channel_id=7, source_target_pairs={{0,1},{1,0}}, backend_config={"async_collective_fusion_config":{}}
  ROOT %x = f32[4] negate(%p)
}

%whole (p: f32[4]) -> f32[4] {
  %g = f32[1250]{0} collective-permute(%p), channel_id=7, source_target_pairs={{0,1},{1,0}}
  ROOT %x = f32[4] negate(%p)
}

%group (p: f32[4]) -> (f32[1250], f32[1000]) {
  %g = f32[1250]{0} collective-permute(%p), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %h = f32[1000]{0} all-gather(%p), channel_id=2, replica_groups={{0,1}}
  ROOT %t = (f32[1250]{0}, f32[1000]{0}) tuple(%g, %h)
}

%condition (p: f32[4]) -> pred[] {
  %n = s32[] constant(4)
}

%body (p: f32[4]) -> f32[4] {
  %s = (f32[1250]{0}, f32[1250]{0}) collective-permute-start(%p), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %k = f32[4] fusion(%p), kind=kLoop, calls=%plain, backend_config={"estimated_cycles":"3"}
  %d = f32[1250]{0} collective-permute-done(%s)
}

%computing (p: f32[4]) -> f32[4] {
  %k = f32[4] fusion(%p), kind=kLoop, calls=%plain, backend_config={"estimated_cycles":"6"}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4] parameter(0)
  BODY
}
"""  # noqa: E501


@pytest.mark.parametrize("cycles, alone", [(3, 2), (5, 0), (7, 0)])
def test_a_collective_is_alone_for_as_long_as_it_takes_longer_than_what_runs_beside_it(cycles, alone):
    assert found(start("s", 5), kernel(cycles), done("s")) == {PERMUTE: {"seconds": 5, "alone": alone}}


def test_what_runs_before_the_start_or_after_the_end_hides_nothing():
    assert found(kernel(9), start("s", 5), done("s"), kernel(8))[PERMUTE]["alone"] == 5


def test_a_collective_without_a_start_of_its_own_is_alone():
    entry = f"%s = f32[1250]{{0}} {PERMUTE}(%p), {PAIRS}"
    assert found(kernel(9), entry, kernel(8)) == {PERMUTE: {"seconds": 5, "alone": 5}}


def test_collectives_that_are_started_as_a_group_are_awaited_at_its_end():
    group = "%s = ((f32[4]), (f32[1250], f32[1000]), s32[]) async-start(%p), calls=%group"
    entry = (group, kernel(6), "%e = (f32[1250], f32[1000]) async-done(%s)", kernel(8))
    assert found(*entry) == {"all-gather": {"seconds": 2, "alone": 1}, PERMUTE: {"seconds": 5, "alone": 0}}


def test_collectives_under_way_together_are_sent_one_after_the_other():
    assert found(start("a", 5), start("b", 4), kernel(6), done("a"), done("b"))[PERMUTE] == {"seconds": 9, "alone": 3}


def test_every_iteration_of_a_loop_waits():
    assert found("%w = f32[4] while(%p), condition=%condition, body=%body") == {PERMUTE: {"seconds": 20, "alone": 8}}


def test_a_loops_first_iteration_queues_behind_what_is_under_way():
    loop = "%w = f32[4] while(%p), condition=%condition, body=%body"
    assert found(start("s", 45), loop, done("s"))[PERMUTE] == {"seconds": 65, "alone": 47 + 3 * 2}


def test_all_iterations_of_a_loop_hide_what_is_sent_beside_it():
    loop = "%w = f32[4] while(%p), condition=%condition, body=%computing"
    assert found(start("s", 45), loop, done("s"))[PERMUTE] == {"seconds": 45, "alone": 45 - 4 * 6}


def test_pieces_that_fusions_send_while_they_compute_are_one_collective():
    assert found(kernel(2, "piece"), kernel(1), kernel(1, "piece").replace("%k1", "%k")) == {
        PERMUTE: {"seconds": 5, "alone": 1}
    }


@pytest.mark.parametrize("cycles, alone", [(2, 3), (6, 0)])
def test_a_collective_inside_a_fusion_is_sent_while_the_fusion_computes(cycles, alone):
    assert found(kernel(1), kernel(cycles, "whole"), kernel(9)) == {PERMUTE: {"seconds": 5, "alone": alone}}


def test_each_fusion_sends_the_whole_collective_inside_it():
    assert found(kernel(2, "whole"), kernel(3, "whole")) == {PERMUTE: {"seconds": 10, "alone": 5}}


def test_other_nodes_are_reached_at_the_rate_of_the_slow_network():
    assert found(start("s", 5), kernel(3), done("s"), nodes=(0, 1)) == {PERMUTE: {"seconds": 50, "alone": 47}}


def test_the_page_has_a_row_for_each_kind_and_their_sum():
    page = lines({"all-gather": {"seconds": 2.0, "alone": 0.5}, "all-reduce": {"seconds": 1.0, "alone": 1.0}})
    assert [row.split() for row in page[1:]] == [
        ["all-gather", "2000.00", "500.00"],
        ["all-reduce", "1000.00", "1000.00"],
        ["total", "3000.00", "1500.00"],
    ]


def test_a_program_without_collectives_waits_for_nothing():
    assert found(kernel(3)) == {}
