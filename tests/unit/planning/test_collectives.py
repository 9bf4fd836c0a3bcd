"""Collectives are counted as often as they run, inside any loops."""

import pytest

from dualdiff_jax.planning import collectives as of_programs
from dualdiff_jax.planning.hlo import parse

GPU = """HloModule step

%inner (p: f32[4]) -> f32[4] {
  %gathered = bf16[8,4]{1,0} all-gather(%p), dimensions={0}
}

%condition (p: f32[4]) -> pred[] {
  %n = s32[] constant(7)
}

%outer (p: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%p), condition=%condition, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %r = ((f32[16]{0}, f32[8]{0}), (f32[2]{0}, f32[1]{0})) reduce-scatter-start(%a, %b), dimensions={0}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%p), condition=%condition, body=%outer, backend_config={"known_trip_count":{"n":"2"}}
  %s = f32[5]{0} all-reduce(%p), to_apply=%add
  %t = f32[4] fusion(%p), kind=kLoop, calls=%fused
}

%fused (p: f32[4]) -> f32[4] {
  %x = s32[3,2]{1,0} all-to-all(%p)
}
"""


def collectives(text, *node_of):
    return of_programs.collectives(parse(text), *node_of)


def test_loops_in_loops_multiply():
    found = collectives(GPU)
    assert found["all-gather"][:2] == (6, 6 * 8 * 4 * 2)
    assert found["all-reduce"][:2] == (1, 20)
    assert found["all-to-all"][:2] == (1, 24)
    assert "collective-permute" not in found


def test_an_asynchronous_start_counts_its_results_and_not_its_operands():
    assert collectives(GPU)["reduce-scatter"][:2] == (2, 2 * (2 + 1) * 4)
    nested = GPU.replace("f32[5]{0} all-reduce(%p)", "((f32[5]{0}), f32[5]{0}) all-reduce-start(%p)")
    flat = GPU.replace("f32[5]{0} all-reduce(%p)", "(f32[5]{0}, f32[4]{0}) all-reduce-start(%p, %q)")
    assert collectives(nested)["all-reduce"].bytes == 20 and collectives(flat)["all-reduce"].bytes == 36


def test_a_loop_without_a_written_count_runs_up_to_the_constant_of_its_condition():
    text = GPU.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    assert collectives(text)["all-gather"].count == 2 * 7


def test_a_loop_that_ends_when_the_data_say_so_runs_as_often_as_the_caller_says():
    """The constant is a token's number, and no count."""
    text = GPU.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    on_data = text.replace("constant(7)\n", "constant(7)\n  %same = pred[2,4] compare(%ids, %n)\n")
    assert collectives(on_data)["all-gather"].count == 2
    assert of_programs.collectives(parse(on_data, unknown_trips=5))["all-gather"].count == 2 * 5


def test_a_ring_that_takes_two_pieces_an_iteration_runs_half_as_often():
    """As XLA writes for TPUs; its counter has no sign."""
    counted = TPU.replace("%n = s32[]", "%n = u32[]").replace("constant(5)", "constant(8)")
    counted = counted.replace("%n = u32", "%i = u32[]{:T(128)} get-tuple-element(%p), index=1\n  %n = u32")
    step = """  %two = u32[]{:T(128)} constant(2)
  %k = u32[]{:T(128)} get-tuple-element(%p), index=1
  %next = u32[]{:T(128)} add(%k, %two)
  ROOT %t = (f32[4], u32[]{:T(128)}) tuple(%a, %next)
}

%condition"""
    assert collectives(counted)["collective-permute"].count == 8
    assert collectives(counted.replace("}\n\n%condition", step))["collective-permute"].count == 4


@pytest.mark.parametrize("text", ["", "HloModule empty\n\nENTRY %main (p: f32[4]) -> f32[4] {\n}\n"])
def test_a_program_that_sends_nothing(text):
    assert collectives(text) == {}


# As XLA writes for TPUs: a ring of 16, and one gather in three fusions, two of them in a loop's body.
TPU = """HloModule step, is_scheduled=true, num_partitions=16

%first (p: bf16[4]) -> bf16[64] {
  ROOT %g.1 = bf16[64]{0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=16] {'axis_0'}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%second (p: bf16[4]) -> bf16[64] {
  ROOT %g.2 = bf16[64]{0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=16] {'axis_0'}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%before (p: bf16[4]) -> bf16[64] {
  ROOT %g.0 = bf16[64]{0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=16] {'axis_0'}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%body (p: f32[4]) -> f32[4] {
  %a = bf16[64] fusion(%p), kind=kCustom, calls=%first
  %b = bf16[64] fusion(%p), kind=kOutput, calls=%second
  %s = (f32[6,4]{1,0:T(8,128)}, f32[6,4]{1,0:T(8,128)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p), channel_id=3, source_target_pairs={{0,15},{1,0},{2,1}}
}

%condition (p: f32[4]) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %a = bf16[64] fusion(%p), kind=kCustom, calls=%before
  %w = (s32[], f32[4]) while(%p), condition=%condition, body=%body
}
"""  # noqa: E501


def test_a_gather_in_several_fusions_counts_once_an_iteration():
    assert collectives(TPU)["all-gather"][:2] == (5, 5 * 128)
    assert collectives(TPU.replace("channel_id=7, replica_groups=mesh['axis_0'=16] {'axis_0'}, backend_config=", ""))[
        "all-gather"
    ].count == (5 + 5 + 1)


def test_a_permute_counts_its_data_and_not_the_context_numbers():
    assert collectives(TPU)["collective-permute"][:3] == (5, 5 * 96, 5 * 96)


def test_bytes_sent_depend_on_the_size_of_the_group():
    assert collectives(TPU)["all-gather"].moved == 5 * 128 * 15 / 16
    assert collectives(TPU)["all-gather"].across == 0


def test_traffic_to_other_nodes_is_counted():
    """Four nodes of four: each brings in the other three quarters once, shared by its four members."""
    found = collectives(TPU, [device // 4 for device in range(16)])
    assert found["all-gather"].across == 5 * 128 * 3 / 16
    assert found["collective-permute"].across == found["collective-permute"].moved
    inside = TPU.replace("{{0,15},{1,0},{2,1}}", "{{0,3},{1,0},{2,1}}")
    assert collectives(inside, [device // 4 for device in range(16)])["collective-permute"].across == 0
