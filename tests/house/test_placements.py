"""A golden dump of where every leaf and activation lies on eight devices, so that a lost sharding shows in review.

    python -m tests.house.test_placements
writes it anew. Nothing is computed: meshes and weights are abstract.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from configs import dual_diff_pretrain
from configs.tiny import dual_diff_pretrain as tiny_pretrain
from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.models.bundle import bind, leaf_specs, weight_shardings
from dualdiff_jax.models.separated import separated_weights
from dualdiff_jax.sharding import MESH_AXES, mesh_sizes

PLACEMENTS = Path(__file__).parent / "placements"
DEVICES = 8
# Name -> (config of the mesh, nodes).
MESHES = {
    "fsdp": (MeshConfig(), 1),
    "hybrid": (MeshConfig(layout="hybrid"), 2),
    "tensor": (MeshConfig(tensor=2), 1),
    "context": (MeshConfig(context=2), 1),
}
TINY: ModelConfig = resolve(tiny_pretrain.get_config()).model
# Name -> (attention kernel, whether weights are separated, as inference holds them); each asks for other layouts.
PASSES = {"xla": ("xla", False), "splash": ("splash_interpreted", False), "separated weights": ("xla", True)}
MODELS = {"tiny": TINY, "2B": resolve(dual_diff_pretrain.get_config()).model}


def mesh_of(name: str) -> AbstractMesh:
    config, nodes = MESHES[name]
    return AbstractMesh(mesh_sizes(config, DEVICES, nodes), MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def placement(mesh: AbstractMesh, shape: tuple[int, ...], spec: PartitionSpec) -> str:
    """``24 x 1536 fsdp x 3: 24 x 192 x 3``: each dim with its mesh axes, then the part of one device."""
    entries = [() if entry is None else (entry,) if isinstance(entry, str) else entry for entry in spec]
    entries += [()] * (len(shape) - len(entries))
    dims = " x ".join(" ".join((str(size), *names)) for size, names in zip(shape, entries, strict=True))
    return f"{dims}: {' x '.join(map(str, NamedSharding(mesh, spec).shard_shape(shape)))}"


def leaves(mesh: AbstractMesh, config: ModelConfig) -> dict[str, str]:
    specs = leaf_specs(config)
    return {
        name: placement(mesh, specs[name].shape, sharding.spec)
        for name, sharding in weight_shardings(config, mesh).items()
    }


def activations(mesh: AbstractMesh, kernel: str, is_separated: bool) -> list[str]:
    """Layouts that a pass of the tiny model asks for, in program order."""
    config = dataclasses.replace(TINY, attention=kernel)
    shardings = weight_shardings(config, mesh)
    weights: Any = {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=shardings[name])
        for name, spec in leaf_specs(config).items()
    }
    if is_separated:
        weights = separated_weights(config, weights)
    side = config.sampling.height // config.autoencoder.downscale
    inputs = (
        jax.ShapeDtypeStruct((DEVICES, side, side, config.autoencoder.channels), jnp.float32),
        jax.ShapeDtypeStruct((DEVICES,), jnp.float32),
        jax.ShapeDtypeStruct((DEVICES, config.sampling.text_length), jnp.int32),
    )
    with jax.sharding.use_abstract_mesh(mesh):
        program = jax.make_jaxpr(lambda weights, *inputs: bind(config, weights)(*inputs))(weights, *inputs)
    return list(layouts(mesh, program.jaxpr))


def layouts(mesh: AbstractMesh, jaxpr) -> Iterator[str]:
    """The placement of each sharding constraint and ``shard_map``, including those in programs inside the program."""
    for equation in jaxpr.eqns:
        params, [result, *_] = equation.params, equation.outvars
        if equation.primitive.name == "sharding_constraint":
            yield placement(mesh, result.aval.shape, params["sharding"].spec)
        elif equation.primitive.name == "shard_map":
            [spec], inputs = params["out_specs"], [variable.aval.shape for variable in equation.invars]
            parts = [placement(mesh, *part) for part in zip(inputs, params["in_specs"], strict=True)]
            yield f"kernel({'; '.join(parts[-3:])}) -> {placement(mesh, result.aval.shape, spec)}"
        else:
            for value in params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                        yield from layouts(mesh, inner)


def as_json(name: str) -> str:
    mesh = mesh_of(name)
    found = {
        "mesh": dict(mesh.shape),
        "activations": {name: activations(mesh, *one) for name, one in PASSES.items()},
        **{model: leaves(mesh, config) for model, config in MODELS.items()},
    }
    return json.dumps(found, indent=1) + "\n"


@pytest.mark.parametrize("name", MESHES)
def test_every_leaf_and_activation_lies_where_the_golden_dump_has_it(name):
    file = PLACEMENTS / f"{name}.json"
    found, expected = json.loads(as_json(name)), json.loads(file.read_text(encoding="utf-8"))
    assert found == expected, f"{file.name} differs; if that is meant, run python -m tests.house.test_placements"


def test_each_mesh_splits_the_large_leaves_and_the_activations():
    """The golden dump is worth keeping: each device holds little more than its share of the 2B model's elements.

    AdaLN's kernels, a tenth of the model, are split over ``fsdp`` alone: with a ``tensor`` axis of 2 each device holds
    twice its share of them.
    """
    for name in MESHES:
        mesh, specs = mesh_of(name), leaf_specs(MODELS["2B"])
        shardings = weight_shardings(MODELS["2B"], mesh)
        whole = sum(math.prod(spec.shape) for spec in specs.values())
        held = sum(math.prod(shardings[leaf].shard_shape(spec.shape)) for leaf, spec in specs.items())
        shards = mesh.shape["fsdp"] * mesh.shape["tensor"]
        assert whole / shards <= held < 1.13 * whole / shards, name


if __name__ == "__main__":
    PLACEMENTS.mkdir(exist_ok=True)
    for name in MESHES:
        (PLACEMENTS / f"{name}.json").write_text(as_json(name), encoding="utf-8")
