"""Floating-point operations of the instructions of a compiled program: products, convolutions and attention kernels.

(1)  dot           2 * elements of the result * contracted elements
(2)  convolution   2 * batch * output features * input features * valid taps; a tap counts where it meets an element of
                   the input. XLA for TPUs writes every product as a convolution, whose padding would count zeros
(3)  attention     2 * elements of q * keys, for each of its products
"""

import functools
import math
import re
from typing import NamedTuple

import numpy as np

from dualdiff_jax.planning.hlo import Array, Computation, Instruction, Program, inside

_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_CONTRACTED_BY_CUBLAS = re.compile(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')

# Part of a kernel's name -> its products. A backward pass computes the scores again: cuDNN's has five products, and
# splash's two kernels have three and four.
ATTENTION = {
    "fmhaSoftmaxBackward": 5,
    "fmhaSoftmax": 2,
    "fmhaScaleBiasSoftmaxBackward": 5,
    "fmhaScaleBiasSoftmax": 2,
    "splash_mha_fwd": 2,
    "splash_mha_dq": 3,
    "splash_mha_dkv": 4,
    "joint_attention_forward": 2,
    "joint_attention_backward": 5,
    "paired_attention": 2,
}


def operations(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Operations of one execution of an instruction, and of what is fused into it.

    Args:
        program: that it is part of.
        computation: that it is part of.
        instruction: neither a loop nor a conditional.
    """
    products = attention_products(instruction)
    if products:
        return _attention(computation, instruction, products)
    fused = inside(program, instruction)
    return _product(computation, instruction) + sum(_product(there, inner) for there, inner in fused)


def attention_products(instruction: Instruction) -> int:
    """How many products an attention kernel consists of; 0 for other instructions."""
    if instruction.base != "custom-call":
        return 0
    name = f"{_target(instruction)} {instruction.name}"
    return next((products for part, products in ATTENTION.items() if part in name), 0)


def is_gemm(instruction: Instruction) -> bool:
    """Whether it calls a product of a library."""
    return instruction.base == "custom-call" and "__cublas" in _target(instruction)


def is_library_convolution(instruction: Instruction) -> bool:
    """Whether it calls a convolution of a library."""
    return instruction.base == "custom-call" and "__cudnn$conv" in _target(instruction)


def _target(instruction: Instruction) -> str:
    found = _TARGET.search(instruction.line)
    return found[1] if found else ""


def _product(computation: Computation, instruction: Instruction) -> float:
    """Equations (1) and (2); 0 for an instruction that is no product."""
    if instruction.base == "dot":
        contracted = _CONTRACTED.search(instruction.line)
        lhs = computation[instruction.operands[0]].arrays[0]
        return _dot(instruction, lhs, contracted[1] if contracted else "")
    if is_gemm(instruction):
        contracted = _CONTRACTED_BY_CUBLAS.search(instruction.line)
        lhs = computation[instruction.operands[0]].arrays[0]
        return _dot(instruction, lhs, contracted[1].replace('"', "") if contracted else "")
    if instruction.base == "convolution" or is_library_convolution(instruction):
        first, second = (computation[name].arrays[0] for name in instruction.operands[:2])
        result, target = instruction.results[0], _target(instruction)
        if target.endswith("convBackwardInput"):  # cuDNN's gradients keep the labels and window of the convolution
            return _convolution(instruction.line, lhs=result, rhs=second, out=first)
        if target.endswith("convBackwardFilter"):
            return _convolution(instruction.line, lhs=first, rhs=result, out=second)
        return _convolution(instruction.line, lhs=first, rhs=second, out=result)
    return 0.0


def _dot(instruction: Instruction, lhs: Array, contracted: str) -> float:
    inner = math.prod(lhs.dims[int(dim)] for dim in contracted.split(",") if dim)
    return 2.0 * instruction.results[0].elements * inner


def _convolution(line: str, lhs: Array, rhs: Array, out: Array) -> float:
    labels = _LABELS.search(line)
    if labels is None:
        return 0.0
    of_lhs, of_rhs, of_out = labels.groups()
    windows = _windows(line, sum(label.isdigit() for label in of_out))
    total = 2.0 * out.dims[of_out.index("b")] * out.dims[of_out.index("f")] * rhs.dims[of_rhs.index("i")]
    for axis, window in enumerate(windows):
        total *= _taps(lhs.dims[of_lhs.index(str(axis))], out.dims[of_out.index(str(axis))], window)
    return total


class _Window(NamedTuple):
    """How a convolution moves along one dim."""

    size: int
    stride: int
    padding: int  # in front
    lhs_dilation: int
    rhs_dilation: int


def _windows(line: str, count: int) -> list[_Window]:
    """The window of each spatial dim: ``{size=3x3 stride=2x2 pad=1_1x1_1}``."""
    found = _WINDOW.search(line)
    fields = dict(field.split("=") for field in found[1].split()) if found else {}

    def values(name: str, default: str) -> list[int]:
        written = fields[name].split("x") if name in fields else [default] * count
        return [int(value.split("_")[0]) for value in written]

    rows = (values("size", "1"), values("stride", "1"), values("pad", "0_0"))
    return [_Window(*row) for row in zip(*rows, values("lhs_dilate", "1"), values("rhs_dilate", "1"), strict=True)]


@functools.lru_cache(maxsize=4096)
def _taps(size: int, out: int, window: _Window) -> int:
    """Pairs of an output position and a tap that meet an element of an input of ``size``."""
    starts = np.arange(window.size) * window.rhs_dilation - window.padding  # where a tap lies for the first position
    last = (size - 1) * window.lhs_dilation
    if window.lhs_dilation == 1:  # as many taps as the vocabulary has tokens occur, so not every pair is looked at
        first_inside = np.maximum(-(starts // window.stride), 0)
        last_inside = np.minimum((last - starts) // window.stride, out - 1)
        return int(np.maximum(last_inside - first_inside + 1, 0).sum())
    positions = np.arange(out)[:, None] * window.stride + starts
    return int(((positions >= 0) & (positions <= last) & (positions % window.lhs_dilation == 0)).sum())


def _attention(computation: Computation, instruction: Instruction, products: int) -> float:
    """Equation (3). The first two operands with three dims or more that are no integers are q and k.

    cuDNN's are (b, s, h, k); those of the TPU kernels end with (s, k) or (s, h * k). Joint attention has q, k and v of
    each stream in one array, (b, 3, s, h * k).
    """
    if "joint_attention" in instruction.name:
        image, text = (computation[name].arrays[0] for name in instruction.operands[:2])
        return 2.0 * products * (image.elements + text.elements) / 3 * (image.dims[2] + text.dims[2])
    found = (array for name in instruction.operands if name in computation for array in computation[name].arrays[:1])
    q, k, *_ = (array for array in found if len(array.dims) >= 3 and array.dtype[0] not in "su")
    keys = k.dims[1] if "fmha" in _target(instruction) else k.dims[-2]
    return 2.0 * products * q.elements * keys
