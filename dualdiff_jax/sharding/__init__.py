"""Where arrays live: the mesh, and the one table from logical axes to mesh axes.

A parameter names what each of its dims *is* (``width``, ``heads``, ...), and an activation names its kind
(``ACTIVATIONS``); the table (``ShardingRules``) alone decides which mesh axes a dim is split over. A run changes its
strategy by replacing rows of the table (``mesh.rules``).
"""

from dualdiff_jax.sharding.mesh import LAYOUTS, make_mesh, mesh_sizes, nodes_of
from dualdiff_jax.sharding.placement import (
    MICROBATCH,
    SMALL_LEAF,
    batch_parts,
    batch_sharding,
    check_batch,
    constrain,
    fitting_spec,
    leaf_sharding,
    partition_spec,
    place_batch,
    replicated,
    warn_unsharded,
    with_mesh,
)
from dualdiff_jax.sharding.rules import (
    ACTIVATIONS,
    DEFAULT_RULES,
    MESH_AXES,
    Axes,
    ShardingRules,
    current_rules,
    rules_in_force,
)

__all__ = [
    "ACTIVATIONS",
    "Axes",
    "DEFAULT_RULES",
    "LAYOUTS",
    "MESH_AXES",
    "MICROBATCH",
    "SMALL_LEAF",
    "ShardingRules",
    "batch_parts",
    "batch_sharding",
    "check_batch",
    "constrain",
    "current_rules",
    "fitting_spec",
    "leaf_sharding",
    "make_mesh",
    "mesh_sizes",
    "nodes_of",
    "partition_spec",
    "place_batch",
    "replicated",
    "rules_in_force",
    "warn_unsharded",
    "with_mesh",
]
