"""Collectives are counted as often as they run, inside any loops."""

import pytest

from dualdiff_jax.hardware import CHIPS, Chip, Network
from dualdiff_jax.planning import collectives as of_programs
from dualdiff_jax.planning.hlo import Array, parse
from dualdiff_jax.planning.waiting import waiting

# 1000 bytes take a second; a kernel takes its cycles in seconds.
CHIP = Chip("toy", ("toy",), "tpu", 1e12, 1, 1e12, Network(1e3, 1e2), clock=1.0)

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
    return of_programs.collectives(parse(text), CHIPS["v5e"], *node_of)


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
    assert of_programs.collectives(parse(on_data, unknown_trips=5), CHIP)["all-gather"].count == 2 * 5


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
    """And once before the loop, which sends it whole."""
    assert collectives(TPU)["all-gather"][:2] == (6, 6 * 128)
    assert collectives(TPU.replace("channel_id=7, replica_groups=mesh['axis_0'=16] {'axis_0'}, backend_config=", ""))[
        "all-gather"
    ].count == (5 + 5 + 1)


def test_a_permute_counts_its_data_and_not_the_context_numbers():
    assert collectives(TPU)["collective-permute"][:3] == (5, 5 * 96, 5 * 96)


def test_bytes_sent_depend_on_the_size_of_the_group():
    assert collectives(TPU)["all-gather"].moved == 6 * 128 * 15 / 16
    assert collectives(TPU)["all-gather"].across == 0


def test_traffic_to_other_nodes_is_counted():
    """Four nodes of four: each brings in the other three quarters once, shared by its four members."""
    found = collectives(TPU, [device // 4 for device in range(16)])
    assert found["all-gather"].across == 6 * 128 * 3 / 16
    assert found["collective-permute"].across == found["collective-permute"].moved
    inside = TPU.replace("{{0,15},{1,0},{2,1}}", "{{0,3},{1,0},{2,1}}")
    assert collectives(inside, [device // 4 for device in range(16)])["collective-permute"].across == 0


# A gather of 4000 bytes by two devices, each of which sends 2000: its start, a loop of four pieces, its end.
PIECES = """HloModule step, num_partitions=2

%piece (p: f32[500]) -> f32[1000] {
  ROOT %g = f32[1000]{0} all-gather(%p), channel_id=7, replica_groups={{0,1}}, backend_config={"async_collective_fusion_config":{}}
}

%inner (p: f32[500]) -> f32[500] {
  %k = f32[1000] fusion(%p), kind=kCustom, calls=%piece, backend_config={"estimated_cycles":"3"}
}

%middle (p: f32[500]) -> f32[500] {
  %w = f32[500] while(%p), condition=%twice, body=%inner
}

%twice (p: f32[500]) -> pred[] {
  %n = s32[] constant(2)
}

ENTRY %main (p: f32[500]) -> f32[500] {
  %async-collective-start = f32[1000] fusion(%p), kind=kCustom, calls=%piece
  %w = f32[500] while(%p), condition=%twice, body=%middle
  %async-collective-done = f32[1000] fusion(%p), kind=kCustom, calls=%piece
}
"""  # noqa: E501


@pytest.mark.parametrize("cycles, alone", [(3, 0.0), (0, 2.0)])
def test_pieces_that_inner_loops_send_belong_to_the_collective_that_is_under_way(cycles, alone):
    program = parse(PIECES.replace('cycles":"3"', f'cycles":"{cycles}"'))
    assert of_programs.collectives(program, CHIP) == {"all-gather": (1, 4000, 2000, 0)}
    assert waiting(program, CHIP) == {"all-gather": {"seconds": 2.0, "alone": alone}}


@pytest.mark.parametrize("cycles, count", [((1, 5), 3), ((5, 1), None), ((5, 5), 3), ((5, 4), 3)])
def test_a_conditional_sends_what_its_longest_branch_sends(cycles, count):
    """What a branch sends takes time as its kernels do."""
    kernel = '%k = f32[4] fusion(%p), kind=kLoop, calls=%plain, backend_config={"estimated_cycles":"CYCLES"}'
    text = f"""HloModule step, num_partitions=2

%plain (p: f32[4]) -> f32[4] {{
  ROOT %x = f32[4] negate(%p)
}}

%silent (p: f32[4]) -> f32[4] {{
  {kernel.replace("CYCLES", str(cycles[0]))}
}}

%sending (p: f32[4]) -> f32[4] {{
  {kernel.replace("CYCLES", str(cycles[1]))}
  %s = f32[500]{{0}} call(%p), to_apply=%called
}}

%called (p: f32[4]) -> f32[500] {{
  ROOT %s = f32[500]{{0}} all-reduce(%p), to_apply=%add
}}

%body (p: f32[4]) -> f32[4] {{
  %c = f32[4] conditional(%i, %p, %p), branch_computations={{%silent, %sending}}
}}

%until (p: f32[4]) -> pred[] {{
  %n = s32[] constant(3)
}}

ENTRY %main (p: f32[4]) -> f32[4] {{
  %w = f32[4] while(%p), condition=%until, body=%body
}}
"""
    found = of_programs.collectives(parse(text), CHIP)
    assert found == ({"all-reduce": (count, count * 2000, count * 2000, 0)} if count else {})
    assert waiting(parse(text), CHIP).keys() == found.keys()


LOOP = """HloModule step, num_partitions=2

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4] get-tuple-element(%p), index=1
  %step = s32[] constant(STEP)
  %next = s32[] UPDATE(%i, %step)
  %y = f32[4] all-reduce(%x), to_apply=%add
  ROOT %t = (s32[], f32[4]) tuple(%next, %y)
}

%until (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(LIMIT)
  ROOT %c = pred[] compare(OPERANDS), direction=DIRECTION
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %first = s32[] constant(FIRST)
  %counter = s32[] copy(%first)
  %t = (s32[], f32[4]) tuple(%counter, %p)
  %w = (s32[], f32[4]) while(%t), condition=%until, body=%body
}
"""
UNKNOWN = 77


@pytest.mark.parametrize(
    "first, direction, limit, update, trips",
    [
        (0, "LT", 9, "add 1", 9),
        (0, "LE", 9, "add 1", 10),
        (3, "LT", 9, "add 4", 2),
        (3, "LE", 11, "add 4", 3),
        (-2, "LT", 9, "add 1", 11),
        (10, "GT", 0, "add -1", 10),
        (10, "GE", 0, "subtract 2", 6),
        (10, "NE", 0, "subtract 2", 5),
        (10, "NE", 1, "subtract 2", UNKNOWN),
        (0, "LT", 9, "add -1", UNKNOWN),
        (9, "LT", 9, "add 1", 0),
        (0, "GT", 9, "multiply 2", 0),
        (1, "LT", 9, "multiply 2", UNKNOWN),
    ],
)
def test_a_loop_runs_as_its_counter_says(first, direction, limit, update, trips):
    operation, step = update.split()
    values = {"FIRST": first, "LIMIT": limit, "UPDATE": operation, "STEP": step, "DIRECTION": direction}
    text = LOOP
    for name, value in values.items():
        text = text.replace(name, str(value))
    mirrored = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}.get(direction, direction)
    turned = text.replace("OPERANDS", "%n, %i").replace(f"direction={direction}", f"direction={mirrored}")
    for written in (text.replace("OPERANDS", "%i, %n"), turned):
        assert of_programs.collectives(parse(written, UNKNOWN), CHIP)["all-reduce"].count == trips


CONDITIONS = {
    "negated": "%c = pred[] compare(%i, %n), direction=GE\n  ROOT %r = pred[] not(%c)",
    "the other comparison of a number": """%e = f32[] get-tuple-element(%p), index=1
  %c = pred[] compare(%e, %tolerance), direction=GT
  %d = pred[] compare(%i, %n), direction=LT
  ROOT %r = pred[] and(%c, %d)""",
    "neither, negated": """%e = f32[] get-tuple-element(%p), index=1
  %c = pred[] compare(%e, %tolerance), direction=LE
  %d = pred[] compare(%i, %n), direction=GE
  %o = pred[] or(%d, %c)
  ROOT %r = pred[] not(%o)""",
    "the sooner of two": """%m = s32[] constant(30)
  %c = pred[] compare(%i, %m), direction=LT
  %d = pred[] compare(%n, %i), direction=GT
  ROOT %r = pred[] and(%c, %d)""",
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_counter_is_what_a_condition_compares_with_the_limit(name):
    """It is not the first number that the condition takes."""
    values = {"FIRST": 1, "LIMIT": 9, "UPDATE": "add", "STEP": 4}
    text = LOOP.replace("ROOT %c = pred[] compare(OPERANDS), direction=DIRECTION", CONDITIONS[name])
    for key, value in values.items():
        text = text.replace(key, str(value))
    taken = "%until (p: (s32[], f32[4])) -> pred[] {\n  %p = (s32[], f32[4]) parameter(0)\n"
    text = text.replace(taken, taken + "  %other = f32[4] get-tuple-element(%p), index=1\n".replace("f32[4]", "f32[]"))
    assert of_programs.collectives(parse(text, UNKNOWN), CHIP)["all-reduce"].count == 2


@pytest.mark.parametrize("kind", ["ragged-all-to-all", "collective-broadcast"])
def test_ragged_exchanges_and_broadcasts_are_collectives(kind):
    line = f"%r = f32[1000]{{0}} {kind}(%p), channel_id=1, replica_groups={{{{0,1}}}}"
    text = f"HloModule step, num_partitions=2\n\nENTRY %main (p: f32[4]) -> f32[4] {{\n  {line}\n}}\n"
    assert collectives(text, [0, 1]) == {kind: (1, 4000, 2000, 2000)}


def test_a_complex_number_has_two_parts():
    text = "HloModule step\n\nENTRY %main () -> c64[3] {\n  %c = (c64[3]{0}, c128[2]{0}) tuple()\n}\n"
    assert parse(text).computations["main"]["c"].arrays == [Array("c64", (3,), "0"), Array("c128", (2,), "0")]
    assert [array.bytes for array in parse(text).computations["main"]["c"].arrays] == [24, 32]
