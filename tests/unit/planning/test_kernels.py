"""Small compiled programs, written by hand, whose operations, bytes and kinds follow from their shapes."""

import dataclasses
import itertools

import pytest

from dualdiff_jax.hardware import CHIPS
from dualdiff_jax.planning.hlo import parse
from dualdiff_jax.planning.kernels import SHARE_OF_BANDWIDTH, SHARE_OF_FLOPS, Kernel, kernels, rates
from dualdiff_jax.planning.operations import _taps, _Window

GPU, TPU = CHIPS["h100"], CHIPS["v5e"]

FUSED = """
%multiplied (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  ROOT %m = f32[8,4]{1,0} multiply(%a, %a)
}

%sliced (stack: bf16[24,64,32], i: s32[]) -> bf16[64,32] {
  %stack = bf16[24,64,32]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %next = s32[] add(%i, %zero)
  %one = bf16[1,64,32]{2,1,0} dynamic-slice(%stack, %next, %zero, %zero), dynamic_slice_sizes={1,64,32}
  ROOT %b = bf16[64,32]{1,0} bitcast(%one)
}

%cut (x: bf16[8,10]) -> bf16[8,2] {
  %x = bf16[8,10]{1,0} parameter(0)
  ROOT %s = bf16[8,2]{1,0} slice(%x), slice={[0:8], [8:10]}
}

%updated (stack: f32[24,64], row: f32[1,64], i: s32[]) -> f32[24,64] {
  %stack = f32[24,64]{1,0} parameter(0)
  %row = f32[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %u = f32[24,64]{1,0} dynamic-update-slice(%stack, %row, %i, %zero)
}

%several (stack: f32[24,64], row: f32[1,64], i: s32[]) -> (f32[24,64], f32[1,64]) {
  %stack = f32[24,64]{1,0} parameter(0)
  %row = f32[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %twice = f32[1,64]{1,0} add(%row, %row)
  %u = f32[24,64]{1,0} dynamic-update-slice(%stack, %twice, %i, %zero)
  ROOT %t = (f32[24,64]{1,0}, f32[1,64]{1,0}) tuple(%u, %twice)
}

%activated (x: bf16[16,32], w: bf16[32,8]) -> f32[16,8] {
  %x = bf16[16,32]{1,0} parameter(0)
  %w = bf16[32,8]{1,0} parameter(1)
  %d = f32[16,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = f32[16,8]{1,0} tanh(%d)
}

%outer (x: bf16[16,32], w: bf16[32,8]) -> f32[16,8] {
  %x = bf16[16,32]{1,0} parameter(0)
  %w = bf16[32,8]{1,0} parameter(1)
  ROOT %inner = f32[16,8]{1,0} fusion(%x, %w), kind=kCustom, calls=%activated
}

%passed (stack: bf16[24,64,32]) -> bf16[24,64,32] {
  %stack = bf16[24,64,32]{2,1,0} parameter(0)
  ROOT %b = bf16[24,64,32]{2,1,0} bitcast(%stack)
}

%nested (i: s32[], stack: bf16[24,64,32]) -> bf16[64,32] {
  %i = s32[] parameter(0)
  %stack = bf16[24,64,32]{2,1,0} parameter(1)
  ROOT %inner = bf16[64,32]{1,0} fusion(%stack, %i), kind=kLoop, calls=%sliced
}

%whole (stack: bf16[24,64,32]) -> bf16[24,64,32] {
  %stack = bf16[24,64,32]{2,1,0} parameter(0)
  ROOT %inner = bf16[24,64,32]{2,1,0} fusion(%stack), kind=kLoop, calls=%passed
}

%batched (a: bf16[3,4,5], b: bf16[3,5,6]) -> bf16[3,4,6] {
  %a = bf16[3,4,5]{2,1,0} parameter(0)
  %b = bf16[3,5,6]{2,1,0} parameter(1)
  ROOT %d = bf16[3,4,6]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}
}

%sending (p: f32[1000]) -> f32[1000] {
  %p = f32[1000]{0} parameter(0)
  ROOT %r = f32[1000]{0} all-reduce(%p), to_apply=%multiplied
}

%cheap (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %c = f32[8,4]{1,0} copy(%p)
}

%dear (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %once = f32[8,4]{1,0} copy(%p)
  ROOT %again = f32[8,4]{1,0} copy(%once)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  ROOT %m = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%multiplied
}

%until (p: (s32[], f32[8,4])) -> pred[] {
  %n = s32[] constant(7)
}
"""  # noqa: E501


def only(entry: str, chip=GPU) -> list[Kernel]:
    """The kernels of a program whose main computation consists of the given lines."""
    main = "\n".join(f"  {line.strip()}" for line in entry.strip().splitlines())
    text = f"HloModule step, num_partitions=1\n{FUSED}\nENTRY %main (p: f32[1]) -> f32[1] {{\n{main}\n}}\n"
    return kernels(parse(text), chip)


def one(entry: str, chip=GPU) -> Kernel:
    (kernel,) = only(entry, chip)
    return kernel


def fused(body: str, entry: str) -> Kernel:
    """The kernel of a fusion that calls ``%f``, whose body consists of the given lines."""
    lines = "\n".join(f"  {line.strip()}" for line in body.strip().splitlines())
    text = f"HloModule step\n{FUSED}\n%f (p: f32[1]) -> f32[1] {{\n{lines}\n}}\n\nENTRY %main (p: f32[1]) -> f32[1] {{"
    (kernel,) = kernels(parse(f"{text}\n  {entry}\n}}\n"), GPU)
    return kernel


def figures(kernel: Kernel) -> tuple[str, int, float, float]:
    return kernel.kind, kernel.runs, kernel.operations, kernel.bytes


PASS = 2 * 8 * 4 * 4  # bytes: f32[8,4] read and written once


def test_a_loop_multiplies_by_its_written_count_and_by_the_loops_around_it():
    loop = "%w = (s32[], f32[8,4]) while(%t), condition=%until, body=%body"
    written = loop + ', backend_config={"known_trip_count":{"n":"5"}}'
    assert figures(one(written)) == ("elementwise", 5, 0, 5 * PASS)
    assert figures(one(loop)) == ("elementwise", 7, 0, 7 * PASS)


def test_a_fusion_reads_a_parameter_once_however_often_it_is_used():
    assert figures(one("%m = f32[8,4] fusion(%x), kind=kLoop, calls=%multiplied")) == ("elementwise", 1, 0, PASS)


def test_a_slice_of_a_stack_reads_the_slice():
    """Its index is neither another slice nor arithmetic that would make it elementwise."""
    layer = one("%s = bf16[64,32] fusion(%stack, %i), kind=kLoop, calls=%sliced")
    assert figures(layer) == ("copies", 1, 0, 2 * 64 * 32 * 2 + 4)
    assert figures(one("%s = bf16[8,2] fusion(%x), kind=kLoop, calls=%cut")) == ("copies", 1, 0, 2 * 8 * 2 * 2)
    alone = """%stack = bf16[24,64,32]{2,1,0} parameter(0)
               %i = s32[] parameter(1)
               %s = bf16[1,64,32]{2,1,0} dynamic-slice(%stack, %i, %i, %i), dynamic_slice_sizes={1,64,32}"""
    assert figures(one(alone)) == ("copies", 1, 0, 2 * 64 * 32 * 2)


def test_a_slice_in_a_fusion_inside_another_reads_the_slice():
    """What the inner fusion hands on is read whole."""
    nested = one("%s = bf16[64,32] fusion(%i, %stack), kind=kLoop, calls=%nested")
    assert figures(nested) == ("copies", 1, 0, 2 * 64 * 32 * 2 + 4)
    assert one("%s = bf16[24,64,32] fusion(%stack), kind=kLoop, calls=%whole").bytes == 2 * 24 * 64 * 32 * 2


def test_an_update_in_place_writes_the_update():
    row = 64 * 4
    fused = one("%u = f32[24,64] fusion(%stack, %row, %i), kind=kLoop, calls=%updated")
    assert figures(fused) == ("copies", 1, 0, 2 * row + 4)
    both = one("%u = (f32[24,64], f32[1,64]) fusion(%stack, %row, %i), kind=kLoop, calls=%several")
    assert figures(both) == ("elementwise", 1, 0, 3 * row + 4)
    alone = """%stack = f32[24,64]{1,0} parameter(0)
               %row = f32[1,64]{1,0} parameter(1)
               %i = s32[] parameter(2)
               %u = f32[24,64]{1,0} dynamic-update-slice(%stack, %row, %i, %i)"""
    assert figures(one(alone)) == ("copies", 1, 0, 2 * row)


@pytest.mark.parametrize("rest", ["ROOT %r = f32[24,64] add(%u, %y)", "%r = f32[24,64] add(%u, %y)\n  ROOT %t = tuple"])
def test_an_update_that_a_fusion_reads_again_reads_the_whole(rest):
    """Where it is returned as well, it is still read for the sum."""
    rest = rest.replace("%t = tuple", "%t = (f32[24,64], f32[24,64]) tuple(%u, %r)")
    whole, row = 24 * 64 * 4, 64 * 4
    found = fused(
        f"""%stack = f32[24,64]{{1,0}} parameter(0)
            %row = f32[1,64]{{1,0}} parameter(1)
            %i = s32[] parameter(2)
            %y = f32[24,64]{{1,0}} parameter(3)
            %u = f32[24,64]{{1,0}} dynamic-update-slice(%stack, %row, %i, %i)
            {rest}""",
        "%f = f32[24,64] fusion(%stack, %row, %i, %y), kind=kLoop, calls=%f",
    )
    assert found.bytes == 3 * whole + row + 4 + (row if "tuple" in rest else 0)


def test_an_update_in_a_fusion_inside_another_is_in_place_where_the_outer_one_returns_it():
    inside = """%stack = f32[24,64]{1,0} parameter(0)
                %row = f32[1,64]{1,0} parameter(1)
                %i = s32[] parameter(2)
                %u = f32[24,64]{1,0} fusion(%stack, %row, %i), kind=kLoop, calls=%updated
                """
    call = "%f = f32[24,64] fusion(%stack, %row, %i), kind=kLoop, calls=%f"
    whole, row = 24 * 64 * 4, 64 * 4
    assert fused(inside.replace("%u = ", "ROOT %u = "), call).bytes == 2 * row + 4
    assert fused(inside + "ROOT %b = f32[24,64]{1,0} bitcast(%u)", call).bytes == 2 * row + 4
    assert fused(inside + "ROOT %n = f32[24,64]{1,0} negate(%u)", call).bytes == 2 * whole + row + 4


def test_a_scatter_reads_and_writes_the_rows_that_it_adds_to():
    arguments = """%x = f32[1000,64]{1,0} parameter(0)
                   %i = s32[8,1]{1,0} parameter(1)
                   %rows = f32[8,64]{1,0} parameter(2)
                   """
    scatter = "%s = f32[1000,64]{1,0} scatter(%x, %i, %rows), index_vector_dim=1, to_apply=%multiplied"
    moved = ("elementwise", 1, 0, 8 * 4 + 3 * 8 * 64 * 4)
    assert figures(one(arguments + scatter)) == moved
    call = "%f = f32[1000,64] fusion(%x, %i, %rows), kind=kInput, calls=%f"
    assert figures(fused(f"{arguments}ROOT {scatter}", call)) == moved


def test_a_fused_product_counts_its_operations_and_no_inner_array():
    moved = (16 * 32 + 32 * 8) * 2 + 16 * 8 * 4
    product = ("products", 1, 2 * 16 * 8 * 32, moved)
    assert figures(one("%d = f32[16,8] fusion(%x, %w), kind=kOutput, calls=%activated")) == product
    assert figures(one("%d = f32[16,8] fusion(%x, %w), kind=kCustom, calls=%outer")) == product
    batched = one("%d = bf16[3,4,6] fusion(%a, %b), kind=kCustom, calls=%batched")
    assert figures(batched) == ("products", 1, 2 * 3 * 4 * 6 * 5, 2 * 3 * (20 + 30 + 24))


def test_a_product_of_cublas_counts_without_its_workspace():
    entry = """%x = bf16[16,32]{1,0} parameter(0)
      %w = bf16[32,8]{1,0} parameter(1)
      %g = (bf16[16,8]{1,0}, s8[4194304]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}"""  # noqa: E501
    assert figures(one(entry)) == ("products", 1, 2 * 16 * 8 * 32, 2 * (16 * 32 + 32 * 8 + 16 * 8))


def test_an_async_pair_counts_once():
    start = "%s = ((f32[8,4]), f32[8,4], u32[]) fusion-start(%x), kind=kLoop, calls=%multiplied"
    assert figures(one(f"{start}\n%d = f32[8,4] fusion-done(%s)")) == ("elementwise", 1, 0, PASS)
    called = "%s = ((f32[8,4]), f32[8,4], u32[]) async-start(%x), calls=%cheap\n%d = f32[8,4] async-done(%s)"
    assert figures(one(called)) == ("copies", 1, 0, PASS)
    copy = """%x = f32[8,4]{1,0} parameter(0)
              %s = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[]) copy-start(%x)
              %d = f32[8,4]{1,0} copy-done(%s)"""
    assert figures(one(copy)) == ("copies", 1, 0, PASS)


def test_the_hosts_memory_does_not_count():
    copy = """%x = f32[8,4]{1,0} parameter(0)
              %s = (f32[8,4]{1,0:S(5)}, f32[8,4]{1,0}, u32[]) copy-start(%x)
              %d = f32[8,4]{1,0:S(5)} copy-done(%s)"""
    assert figures(one(copy)) == ("copies", 1, 0, PASS / 2)


def test_the_start_of_a_product_counts_its_operations_and_its_operands_once():
    entry = """%a = f32[8,4]{1,0} parameter(0)
      %b = f32[4,2]{1,0} parameter(1)
      %s = ((f32[8,4]{1,0}, f32[4,2]{1,0}), f32[8,2]{1,0}) dot-start(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
      %d = f32[8,2]{1,0} dot-done(%s)"""  # noqa: E501
    product = ("products", 1, 2 * 8 * 2 * 4, 4 * (8 * 4 + 4 * 2 + 8 * 2))
    assert figures(one(entry)) == product
    called = entry.replace("dot-", "custom-call-").replace(
        "lhs_contracting_dims={1}, rhs_contracting_dims={0}",
        """custom_call_target="__cublas$gemm", backend_config={"lhs_contracting_dimensions":["1"]}""",
    )
    assert figures(one(called.replace("f32[8,2]{1,0})", "(f32[8,2]{1,0}, s8[4194304]{0}))"))) == product


def test_a_product_of_numbers_of_four_and_eight_bits():
    entry = """%a = f4e2m1fn[8,4]{1,0} parameter(0)
      %b = f8e4m3fn[4,2]{1,0} parameter(1)
      %d = f32[8,2] dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"""
    assert figures(one(entry)) == ("products", 1, 2 * 8 * 2 * 4, 8 * 4 // 2 + 4 * 2 + 4 * 8 * 2)


def test_a_sum_of_many_numbers_is_no_copy():
    entry = """%x = f32[1000]{0} parameter(0)
               %zero = f32[] constant(0)
               %s = f32[] reduce(%x, %zero), dimensions={0}, to_apply=%add"""
    assert figures(one(entry)) == ("elementwise", 1, 0, 4000 + 4 + 4)


def test_collectives_are_no_kernels():
    entry = """%g = (bf16[1,4], bf16[8,4]) all-gather-start(%p), dimensions={0}
               %h = bf16[8,4] all-gather-done(%g)
               %r = f32[8,4] all-reduce(%p), to_apply=%multiplied"""
    assert only(entry) == []


ATTENTION = """%q = bf16[2,5,3,64]{3,2,1,0} parameter(0)
  %k = bf16[2,7,3,64]{3,2,1,0} parameter(1)
  %dy = bf16[2,5,3,64]{3,2,1,0} parameter(2)
  %a = (bf16[2,5,3,64], u8[0]) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax"
  %b = (bf16[2,5,3,64], bf16[2,7,3,64], bf16[2,7,3,64]) custom-call(%q, %k, %k, %dy), custom_call_target="__cudnn$fmhaSoftmaxBackward"
"""  # noqa: E501
PRODUCT = 2 * 2 * 3 * 5 * 7 * 64  # 2 b h q s k


def test_cudnns_attention_counts_two_products_forward_and_five_backward():
    forward, backward = only(ATTENTION)
    queries, keys = 2 * 5 * 3 * 64 * 2, 2 * 7 * 3 * 64 * 2
    assert figures(forward) == ("attention", 1, 2 * PRODUCT, 2 * queries + 2 * keys)
    assert figures(backward) == ("attention", 1, 5 * PRODUCT, 3 * queries + 4 * keys)


@pytest.mark.parametrize("kind, products", [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_splash_counts_its_products_at_the_chips_peak(kind, products):
    """The compiler's estimate, if there is one, knows nothing of a kernel's inside."""
    entry = f"""%mask = s8[2,3,1]{{2,1,0}} parameter(0)
      %q = bf16[2,3,5,64]{{3,2,1,0}} parameter(1)
      %k = bf16[2,3,7,64]{{3,2,1,0}} parameter(2)
      %splash_mha_{kind}.4 = bf16[2,3,5,64] custom-call(%mask, %q, %k, %k), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
      "xprof_metadata":"block 640"
      }}}}, metadata={{op_name="jit(step)/jvp()/attention/pallas_call"}}, backend_config={{"estimated_cycles":"3"}}"""  # noqa: E501
    kernel = one(entry, TPU)
    assert kernel.place == "attention"
    assert kernel.kind == "attention" and kernel.operations == products * PRODUCT
    assert kernel.seconds == pytest.approx(products * PRODUCT / 197e12)


def test_attention_of_heads_side_by_side():
    entry = """%q = bf16[2,5,192]{2,1,0} parameter(0)
      %k = bf16[2,7,192]{2,1,0} parameter(1)
      %paired_attention.1 = bf16[2,5,192] custom-call(%q, %k, %k), custom_call_target="tpu_custom_call\""""
    assert one(entry, TPU).operations == 2 * PRODUCT


@pytest.mark.parametrize("way, products", [("forward", 2), ("backward", 5)])
def test_joint_attention_counts_the_queries_and_keys_of_both_streams(way, products):
    entry = f"""%image = bf16[2,3,5,192]{{3,2,1,0}} parameter(0)
      %text = bf16[2,3,2,192]{{3,2,1,0}} parameter(1)
      %joint_attention_{way}.1 = bf16[2,5,192] custom-call(%image, %text), custom_call_target="tpu_custom_call\""""
    assert one(entry, TPU).operations == products * 2 * 2 * 3 * 7 * 7 * 64


def test_a_conditional_counts_the_branch_that_takes_longest():
    entry = "%c = f32[8,4] conditional(%i, %x, %x), branch_computations={%cheap, %dear}"
    assert [figures(kernel) for kernel in only(entry)] == [("copies", 1, 0, PASS)] * 2
    entry = "%c = f32[8,4] conditional(%i, %x, %x), true_computation=%dear, false_computation=%cheap"
    assert len(only(entry)) == 2


def test_a_call_counts_what_it_calls():
    assert figures(one("%c = f32[8,4] call(%x), to_apply=%body")) == ("elementwise", 1, 0, PASS)


CONVOLUTION = """%x = bf16[2,8,8,3]{3,2,1,0} parameter(0)
  %w = bf16[3,3,3,16]{3,2,1,0} parameter(1)
  %y = bf16[2,8,8,16] convolution(%x, %w), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f"""


def test_a_convolution_counts_the_taps_that_meet_the_image():
    """22 of 24 pairs of position and tap along each side."""
    kernel = one(CONVOLUTION)
    assert kernel.kind == "products" and kernel.operations == 2 * 2 * 16 * 3 * 22 * 22


@pytest.mark.parametrize(
    "target, operands, result",
    [
        ("Forward", "%x, %w", "2,8,8,16"),
        ("BackwardInput", "%y, %w", "2,8,8,3"),
        ("BackwardFilter", "%x, %y", "3,3,3,16"),
    ],
)
def test_the_gradients_of_a_convolution_of_cudnn_cost_what_it_costs(target, operands, result):
    entry = f"""%x = bf16[2,8,8,3]{{3,2,1,0}} parameter(0)
      %w = bf16[3,3,3,16]{{3,2,1,0}} parameter(1)
      %y = bf16[2,8,8,16]{{3,2,1,0}} parameter(2)
      %c = (bf16[{result}]{{3,2,1,0}}, u8[0]{{0}}) custom-call({operands}), window={{size=3x3 pad=1_1x1_1}}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$conv{target}\""""  # noqa: E501
    assert one(entry).operations == 2 * 2 * 16 * 3 * 22 * 22


def test_a_tpus_batched_product_is_a_convolution_whose_dilation_counts_nothing():
    """3 products of 4 x 5 by 5 x 6, the batch written as a spatial dim."""
    entry = """%a = bf16[3,4,5]{2,1,0} parameter(0)
      %b = bf16[3,5,6]{2,1,0} parameter(1)
      %y = bf16[3,4,6] convolution(%a, %b), window={size=3 stride=2 pad=0_0 lhs_dilate=3}, dim_labels=0bf_0io->0bf"""
    assert one(entry).operations == 2 * 3 * 4 * 5 * 6


def test_on_a_gpu_the_slower_of_operations_and_bytes_takes_the_time():
    flops, moved = rates(GPU)
    assert (flops, moved) == (SHARE_OF_FLOPS * 989e12, SHARE_OF_BANDWIDTH * 3.35e12)
    product = "%d = f32[16,8] fusion(%x, %w), kind=kOutput, calls=%activated"
    assert one(product).seconds == one(product).bytes / moved
    fast_memory = dataclasses.replace(GPU, bandwidth=1e30)
    assert one(product, fast_memory).seconds == one(product).operations / flops


def test_on_a_tpu_the_compilers_cycles_take_the_time():
    entry = """%m = f32[8,4] fusion(%x), kind=kLoop, calls=%multiplied, backend_config={"estimated_cycles":"3000"}
               %n = f32[8,4] fusion(%x), kind=kLoop, calls=%multiplied, backend_config={"estimated_cycles":"9223372036854775807"}
               %s = (f32[8,4], f32[8,4], u32[]) copy-start(%x)"""  # noqa: E501
    computed, untold, copied = only(entry, TPU)  # the second is without an estimate, the third in the background
    assert figures(computed) == figures(untold) == ("elementwise", 1, 0, PASS)
    assert computed.seconds == 2e-6 and untold.seconds == PASS / TPU.bandwidth
    assert figures(copied) == ("copies", 1, 0, PASS) and copied.seconds == 0


def test_on_a_tpu_what_has_no_estimate_takes_its_bytes_unless_it_is_a_number_or_sends():
    entry = """%x = f32[1000]{0} parameter(0)
               %one = s32[] constant(1)
               %two = s32[] add(%one, %one)
               %same = f32[1000] custom-call(%x), custom_call_target="ConcatBitcast"
               %sent = f32[1000] fusion(%x), kind=kCustom, calls=%sending
               %s = f32[1000] sort(%x), dimensions={0}, to_apply=%multiplied"""
    assert one(entry, TPU).seconds == 2 * 4000 / TPU.bandwidth


def test_a_slice_in_the_background_moves_the_slice():
    entry = """%x = f32[24,4]{1,0:T(8,128)} parameter(0)
               %s = ((f32[24,4]{1,0:T(8,128)}), f32[8,4]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:4]}"""  # noqa: E501
    assert figures(one(entry, TPU)) == ("copies", 1, 0, PASS / 2)


def test_a_tpus_fast_memory_does_not_count():
    entry = """%x = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
               %c = f32[8,4]{1,0:T(8,128)} copy(%x), backend_config={"estimated_cycles":"30"}"""
    assert one(entry, TPU).bytes == PASS / 2


@pytest.mark.parametrize("text", ["", "HloModule empty\n\nENTRY %main (p: f32[4]) -> f32[4] {\n}\n"])
def test_a_program_that_computes_nothing(text):
    assert kernels(parse(text), GPU) == []


def test_taps_are_those_of_a_direct_count():
    for window in itertools.product((1, 3, 8), (1, 2), (-1, 0, 2, 7), (1, 3), (1, 2)):
        size, stride, padding, lhs_dilation, rhs_dilation = window
        for inputs, out in itertools.product((1, 2, 9), (1, 4, 11)):
            met = [o * stride + tap * rhs_dilation - padding for o in range(out) for tap in range(size)]
            direct = sum(0 <= at <= (inputs - 1) * lhs_dilation and at % lhs_dilation == 0 for at in met)
            assert _taps(inputs, out, _Window(*window)) == direct, (window, inputs, out)
