"""Laws of the training step as compiled for H100s and TPUs, read from the compiled text."""

import math
import re

import pytest

from dualdiff_jax.planning.programs import bytes_of
from tests.targets.compiled import DEPTH, VOCABULARY, WIDTH, Result, kernels, results, step_on

pytestmark = pytest.mark.targets

GPU, TPU = ("h100:8", 24), ("v5e:4x4", 48)  # three pairs a device
BOTH = pytest.mark.parametrize("target", [GPU, TPU], ids=lambda target: target[0])
SMALL = 1 << 16  # elements; biases, norms and sums over a batch are smaller
PERMUTES = ("collective-permute", "collective-permute-start")
FROM_VECTORS = ("modulation", "timestep_embedding")  # one vector per example: XLA may gather the vectors instead


def found(target: tuple[str, int], *operations: str) -> list[Result]:
    return [result for result in results(*target) if result.operation in operations]


def large(arrays: list[Result]) -> list[Result]:
    return [array for array in arrays if math.prod(array.shape) >= SMALL]


def test_on_gpus_attention_is_cudnns_fused_one_forward_and_backward():
    calls = {result.line for result in found(GPU, "custom-call") if "t5" not in result.line}  # T5's takes a bias
    targets = {name for call in calls for name in re.findall(r'custom_call_target="__cudnn\$(\w+)"', call)}
    assert targets == {"fmhaSoftmax", "fmhaSoftmaxBackward"}
    forward, backward = (len([call for call in calls if f'"__cudnn${name}"' in call]) for name in sorted(targets))
    assert forward == backward == DEPTH, "remat runs the forward kernel again"
    scores = [array for array in results(*GPU) if array.shape[-2:] == (1280, 1280)]
    assert not scores


def test_on_tpus_attention_is_a_pallas_kernel_over_both_streams_forward_and_backward():
    """One kernel each way: the backward pass does not run the forward kernel again."""
    calls = [result.line for result in found(TPU, "custom-call") if '"tpu_custom_call"' in result.line]
    names = {re.search(r"%?([\w.\-]+) = ", call)[1] for call in calls}
    ways = sorted(re.search(r"joint_attention_([a-z]+)", name)[1].rstrip("_") for name in names)
    assert ways == ["backward", "forward"]
    assert not [array for array in results(*TPU) if array.shape[-2:] == (1280, 1280)]


def test_on_tpus_no_activation_in_memory_ends_with_a_head():
    """A last dim of 64 would be padded to 128. 3 pairs are 6 examples a device."""
    assert not [a for a in results(*TPU) if a.shape[:1] == (6,) and a.shape[-1:] == (64,) and a.shape[-2:-1] == (8,)]


@BOTH
def test_weights_are_gathered_in_bfloat16_a_block_at_a_time(target):
    """No collective that gathers shards handles fp32 matrices, or the matrices of all blocks at once."""
    rings = [array for array in found(target, *PERMUTES) if "windowed_dot_general_body_ag" in array.computation]
    gathered = large(found(target, "all-gather", "all-gather-start") + rings)
    assert {array.dtype for array in gathered} == {"bf16"}
    assert not [array for array in gathered if array.shape[0] == DEPTH]
    assert max(math.prod(array.shape) for array in gathered) <= WIDTH * VOCABULARY


def missing(shards: list[Result], devices: int) -> list[str]:
    """Names of the matrices that have no fp32 shard among ``shards``."""
    sizes = {math.prod(array.shape) for array in shards if array.dtype == "f32"}
    summed = {name: size for name, size in kernels().items() if not any(part in name for part in FROM_VECTORS)}
    return [name for name, size in summed.items() if size >= SMALL and size // devices not in sizes]


@BOTH
def test_gradients_are_reduce_scattered_in_float32(target):
    """On GPUs by that name; on TPUs around a ring, shard by shard, during the product that computes them."""
    if target == GPU:
        assert not missing(found(GPU, "reduce-scatter", "reduce-scatter-start"), devices=8)
    else:
        rings = [array for array in found(TPU, *PERMUTES) if "windowed_dot_general_body_rs" in array.computation]
        assert not missing(rings, devices=16)


@BOTH
def test_all_reduced_arrays_are_small(target):
    """Biases, norms, metrics: less than a fiftieth of the gradient."""
    reduced = [array for array in found(target, "all-reduce", "all-reduce-start") if array.dtype == "f32"]
    assert reduced
    assert sum(math.prod(array.shape) for array in reduced) < sum(kernels().values()) / 50


@BOTH
def test_logits_are_never_whole_in_float32(target):
    """In bfloat16 they are: those of 256 tokens of each example."""
    scored = [array for array in results(*target) if array.shape[-1:] == (VOCABULARY,) and not array.is_fused]
    tokens = {dtype: {math.prod(a.shape[:-1]) for a in scored if a.dtype == dtype} for dtype in ("bf16", "f32")}
    assert max(tokens["bf16"]) >= 3 * 256
    assert not {count for count in tokens["f32"] if count >= 256 and count != WIDTH}  # except the head's gradient


@BOTH
def test_no_example_and_no_logit_goes_to_another_device(target):
    """Both streams' halves of a batch lie on one device; only shards of weights and gradients move."""
    kinds = ("collective-permute", "all-to-all", "all-gather")
    moved = found(target, *kinds, *(f"{kind}-start" for kind in kinds))
    assert moved and not [array for array in moved if array.shape[-2:] == (256, VOCABULARY)]


@BOTH
def test_the_state_is_updated_in_place(target):
    program = step_on(*target)
    state = sum(bytes_of(program.arguments[part]) for part in ("parameters", "averages", "optimizer"))
    assert program.executable.memory_analysis().alias_size_in_bytes >= 0.99 * state


@pytest.mark.parametrize("target", [("h100:8", 16), ("v5e:4x4", 16)], ids=lambda target: target[0])
def test_offloaded_attention_lies_in_the_hosts_memory(target):
    """S(5) in a layout is the host's memory. On GPUs each block has its own array, on TPUs each stream a stack."""
    arrays = results(*target, remat="offload", width=256)
    offloaded = [array.shape for array in arrays if "S(5)" in array.layout]
    is_stacked = target[0] != "h100:8"
    shapes = {shape for shape in offloaded if shape[0] == DEPTH or not is_stacked}
    lengths = {length for shape in shapes for length in (256, 1024, 1280) if length in shape}
    assert lengths in ({1280}, {1024, 256}), offloaded
    assert is_stacked or sum(len(shape) == 4 for shape in offloaded) >= DEPTH
