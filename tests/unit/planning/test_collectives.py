"""Collectives are counted as often as they run, whatever loops they stand in."""

import pytest

from dualdiff_jax.planning.collectives import collectives

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


def test_loops_in_loops_multiply():
    found = collectives(GPU)
    assert found["all-gather"] == (6, 6 * 8 * 4 * 2)
    assert found["all-reduce"] == (1, 20)
    assert found["all-to-all"] == (1, 24)
    assert "collective-permute" not in found


def test_an_asynchronous_start_counts_its_results_and_not_its_operands():
    assert collectives(GPU)["reduce-scatter"] == (2, 2 * (2 + 1) * 4)


def test_a_loop_without_a_written_count_turns_as_often_as_its_condition_says():
    text = GPU.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    assert collectives(text)["all-gather"].count == 2 * 7


@pytest.mark.parametrize("text", ["", "HloModule empty\n\nENTRY %main (p: f32[4]) -> f32[4] {\n}\n"])
def test_a_program_that_sends_nothing(text):
    assert collectives(text) == {}
