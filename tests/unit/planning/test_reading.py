"""Kernels are added up by kind and by place, and bound the MFU."""

import json

import pytest

from dualdiff_jax.hardware import CHIPS
from dualdiff_jax.planning.hlo import parse
from dualdiff_jax.planning.places import place_of
from dualdiff_jax.planning.reading import PLACES, lines, reading


@pytest.mark.parametrize(
    "path, place",
    [
        ("jit(step)/update/sqrt", "update"),
        ("jit(step)/jvp(t5)/while/body/closed_call/attention/bhqs,bshk->bqhk/dot_general", "t5/attention"),
        ("jit(step)/transpose(jvp(t5))/while/body/eval_jaxpr/attention/mul", "t5/attention, backward"),
        ("jit(step)/transpose(jvp())/while/body/checkpoint/mlp/dot_general", "mlp, backward"),
        ("jit(step)/transpose(jvp())/while/body/checkpoint/rematted_computation/mlp/tanh", "mlp, again"),
        ("jit(step)/jvp()/while/body/attention/shard_map/splash_mha_fwd/pallas_call", "attention"),
        ("jit(step)/transpose(jvp(jit(log_softmax)))/reduce_sum", "no scope: reduce_sum, backward"),
        ("jit(step)/is_finite", "no scope: is_finite"),
        ("state.params[\\'t5.scale\\']", "no scope: state.params[\\'t5.scale\\']"),
    ],
)
def test_a_place_is_the_scopes_of_a_path(path, place):
    assert place_of(f'%x = f32[] add(%a, %b), metadata={{op_name="{path}" stack_frame_id=3}}') == place


def test_an_instruction_without_a_path_has_no_scope():
    assert place_of("%x = f32[8] copy(%a)") == "no scope"


def program(count: int) -> str:
    """``count`` copies, each of a place of its own, the n-th of n KiB, and a product in the place of the last."""
    copies = "\n".join(
        f"  %x{n} = f32[{n},256]{{1,0}} parameter({n})\n"
        f'  %c{n} = f32[{n},256]{{1,0}} copy(%x{n}), metadata={{op_name="jit(step)/place{n}/copy"}}'
        for n in range(1, count + 1)
    )
    product = """  %a = bf16[1000,1000]{1,0} parameter(0)
  %d = bf16[1000,1000]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/place1/dot"}"""  # noqa: E501
    return f"HloModule step\n\nENTRY %main (p: f32[1]) -> f32[1] {{\n{copies}\n{product}\n}}\n"


def test_kinds_and_places_add_up():
    found = reading(parse(program(3)), CHIPS["h100"], 1e9)
    copied, moved, flops = 2 * 1024 * (1 + 2 + 3), 2 * 3 * 10**6, 2e9
    assert found["kinds"]["copies"] == {
        "kernels": 3,
        "operations": 0,
        "bytes": copied,
        "seconds": pytest.approx(copied / 3.0e12),
    }
    assert found["kinds"]["products"]["seconds"] == pytest.approx(flops / 790e12)
    assert (found["kernels"], found["operations"], found["bytes"]) == (4, flops, copied + moved)
    assert found["seconds"] == pytest.approx(sum(kind["seconds"] for kind in found["kinds"].values()))
    assert found["kinds"]["attention"]["kernels"] == found["kinds"]["elementwise"]["kernels"] == 0
    assert [row["place"] for row in found["places"]] == ["place1", "place3", "place2"]
    assert found["places"][0]["operations"] == flops and found["places"][0]["kernels"] == 2
    assert found["mfu"] == pytest.approx(1e9 / (found["seconds"] * 989e12))
    assert json.loads(json.dumps(found)) == found


def test_the_most_expensive_places_come_first_and_the_others_not_at_all():
    found = reading(parse(program(PLACES + 4)), CHIPS["h100"], 1e9)
    assert [row["place"] for row in found["places"]] == ["place1", *(f"place{n}" for n in range(14, 5, -1))]
    assert found["kinds"]["copies"]["kernels"] == PLACES + 4


def test_a_page_shows_the_figures_of_the_reading():
    page = "\n".join(lines(reading(parse(program(3)), CHIPS["h100"], 1e9)))
    assert "at 790 TFLOP/s and 3.00 TB/s" in page and "MFU at most 39.9 %" in page
    (row,) = [line.split() for line in page.splitlines() if line.split()[:1] == ["place1"]]
    assert row == ["place1", "2", "0.00", "0.01", "0.00", "99.9"]
    on_tpu = "\n".join(lines(reading(parse(program(3)), CHIPS["v5e"], 1e9)))
    assert "cycles at 1.5 GHz, attention at 197 TFLOP/s" in on_tpu and "loops" not in page + on_tpu
    assert "MFU" not in "\n".join(lines(reading(parse(""), CHIPS["v5e"], 1e9)))


def test_a_page_says_how_many_loops_are_of_unknown_count():
    loops = "\n".join(f"  %w{n} = f32[8] while(%p), condition=%until, body=%body" for n in range(2))
    page = lines(reading(parse(f"ENTRY %main (p: f32[8]) -> f32[8] {{\n{loops}\n}}\n", 32), CHIPS["h100"], 1e9))
    assert "  2 loops of unknown count, taken as 32 iterations each" in page
