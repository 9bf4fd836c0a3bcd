"""The place in the model that an instruction of a compiled program comes from, by the ``jax.named_scope``s around it.

XLA keeps the path of each operation: jit(step)/transpose(jvp(t5))/while/body/closed_call/attention/dot_general is the
backward pass of t5/attention. Where an operation has no scope, its own name stands for the place.
"""

import re

_PATH = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_WRAPPED = re.compile(r"^(?:jvp|transpose|vmap|remat|checkpoint|custom_vjp|custom_jvp)\((.*)\)$")
# What JAX itself and its kernels put into a path; functions appear as jit(name), and an einsum's formula has an arrow.
_STRUCTURE = re.compile(
    r"^(|while|body|cond|closed_call|checkpoint|remat2?|rematted_computation|branch_\d+_fun|shard_map|pallas_call"
    r"|static_sparsity_splash|splash_mha\w*|joint_attention\w*|custom_[vj]jp_call\w*|core_call|eval_jaxpr"
    r"|pjit|scan|\w+\(.*\)|.*->.*|.*\..*)$"
)
NAMELESS = "no scope"


def place_of(line: str) -> str:
    """The place of an instruction.

    Args:
        line: the instruction's text.

    Returns:
        Scopes from the outermost to the innermost; ``, backward`` or ``, again`` follows for gradients and for what
        rematerialisation repeats.
    """
    found = _PATH.search(line)
    if not found:
        return NAMELESS
    *path, primitive = found[1].split("/")
    scopes = [name for part in path if not _STRUCTURE.match(name := _unwrapped(part))]
    where = "/".join(dict.fromkeys(scopes)) or f"{NAMELESS}: {_unwrapped(primitive)}"
    if "rematted_computation" in path:
        return f"{where}, again"
    return f"{where}, backward" if any(part.startswith("transpose(") for part in path) else where


def _unwrapped(part: str) -> str:
    """A scope without the transformations around it: transpose(jvp(mlp)) is mlp."""
    while found := _WRAPPED.match(part):
        part = found[1]
    return part
