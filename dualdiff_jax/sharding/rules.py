"""The table from logical axes to mesh axes, as a value that a run can replace."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import jax

from dualdiff_jax.config.run import MESH_AXES

Axes: TypeAlias = Sequence[str | None]  # the logical axis of each dim; a dim of None is never split


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """The table. Frozen and hashable, so that ``jit`` can key its cache by it.

    Args:
        rows: (logical axis, mesh axes) pairs; a dim without mesh axes stays whole.

    Raises:
        ValueError: A logical axis has two rows, or a row names an unknown mesh axis or one mesh axis twice.
    """

    rows: tuple[tuple[str, tuple[str, ...]], ...]

    def __post_init__(self):
        axes = [axis for axis, _ in self.rows]
        for axis, mesh_axes in self.rows:
            if axes.count(axis) > 1:
                raise ValueError(f"logical axis {axis!r} has two rows; give it one")
            for name in mesh_axes:
                if name not in MESH_AXES:
                    raise ValueError(f"{axis!r} goes to {name!r}, which is no mesh axis; give {', '.join(MESH_AXES)}")
                if mesh_axes.count(name) > 1:
                    raise ValueError(f"{axis!r} goes to mesh axis {name!r} twice; name it once")

    @functools.cached_property
    def _table(self) -> dict[str, tuple[str, ...]]:
        return dict(self.rows)

    def mesh_axes(self, axis: str | None) -> tuple[str, ...]:
        """The mesh axes that a dim of logical axis ``axis`` is split over.

        Raises:
            ValueError: The table has no such logical axis.
        """
        if axis is None:
            return ()
        if axis not in self._table:
            raise ValueError(f"{axis!r} is no logical axis; give one of {', '.join(self._table)}")
        return self._table[axis]

    def replaced(self, rows: Iterable[Sequence[str]]) -> "ShardingRules":
        """This table with some of its rows replaced.

        Args:
            rows: Each is a logical axis followed by its mesh axes, as in ``("width", "fsdp", "tensor")``.

        Raises:
            ValueError: The table has no such logical axis; otherwise as the class does.
        """
        replacement = ShardingRules(tuple((axis, tuple(mesh_axes)) for axis, *mesh_axes in rows))
        for axis, _ in replacement.rows:
            self.mesh_axes(axis)
        return ShardingRules(tuple({**self._table, **replacement._table}.items()))


DEFAULT_RULES = ShardingRules(
    (
        ("batch", ("data", "fsdp")),
        ("sequence", ("context",)),
        ("width", ("fsdp",)),
        ("heads", ("tensor",)),
        ("mlp", ("tensor",)),
        ("vocab", ("tensor",)),
        ("head_dim", ()),
        ("layers", ()),
        ("activation", ()),  # the width of an activation, whose batch is split
        ("patch", ()),  # patch * patch * channels
        ("frequency", ()),  # of the timestep's sinusoids
        ("text_width", ()),  # T5's width where it enters the MMDiT, whose own width is split
        ("projection", ()),  # q, k, v; gate and value; the six modulation vectors
        ("modulated", ()),  # the width that a modulation vector acts on
        ("bucket", ()),  # relative distances
        ("token", ()),  # null image tokens
        ("row", ()),  # of the position table, or of a convolution's kernel
        ("column", ()),
        ("channel", ()),  # inputs of a convolution, whose outputs are split
    )
)

# Every activation whose layout the models ask for, by kind: b batch, s sequence, d width, h heads, k head dim, f mlp.
ACTIVATIONS: Mapping[str, tuple[str | None, ...]] = {
    "stream": ("batch", "sequence", "activation"),  # (b, s, d)
    "qkv": ("batch", "sequence", "projection", "heads", "head_dim"),  # (b, s, 3, h, k)
    "parts": ("batch", "projection", "sequence", "heads"),  # (b, 3, s, h * k)
    "heads": ("batch", "sequence", "heads"),  # (b, s, h * k), a head beside the other
    "attention": ("batch", "sequence", "heads", None),  # (b, s, h, k); a kernel needs whole heads
    "mlp": ("batch", "sequence", "mlp"),  # (b, s, f)
    "convolution": ("row", "column", "channel", "channel"),  # a kernel where it is used
}

_in_force = jax.make_user_context(default_value=DEFAULT_RULES)  # part of the key of jit's cache


def current_rules() -> ShardingRules:
    """The table in force in this thread: ``DEFAULT_RULES``, unless ``rules_in_force`` replaces it."""
    return _in_force.value


def rules_in_force(rules: ShardingRules) -> contextlib.AbstractContextManager[None]:
    """A context in which all shardings of this thread, and the programs that it traces, follow ``rules``."""
    return _in_force(rules)
