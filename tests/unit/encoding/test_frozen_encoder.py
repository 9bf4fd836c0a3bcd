"""Fingerprints differ for other networks, and for nothing else."""

import jax
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.encoding.frozen_encoder import FrozenEncoder, different
from dualdiff_jax.sharding import make_mesh
from tests.unit.tiny import CONFIG, MASK, random_weights

MESH = make_mesh(MeshConfig(), jax.devices()[:1])


def fingerprints(weights):
    return FrozenEncoder(CONFIG, weights, MESH).fingerprints(MASK)


@pytest.fixture(scope="module")
def own():
    return fingerprints(random_weights())


def test_the_dtype_that_weights_are_kept_in_changes_nothing(own):
    weights = {name: value.astype("bfloat16") for name, value in random_weights().items()}
    assert different(own, fingerprints(weights)) == []


def test_weights_that_no_clean_text_or_image_uses_change_nothing(own):
    weights = random_weights()
    weights["t5.embedding"] = weights["t5.embedding"].at[MASK].add(1.0)
    weights["mmdit.text_out.kernel"] = weights["mmdit.text_out.kernel"] + 1.0
    assert different(own, fingerprints(weights)) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("t5.embedding", lambda w: w.at[MASK - 1].add(1.0)),
        ("t5.norm.scale", lambda w: 1.01 * w),
        ("t5.relative_bias", lambda w: w[:, ::-1]),
        ("t5.blocks.mlp_out.kernel", lambda w: w[:, ::-1]),
        ("t5.blocks.q.kernel", lambda w: w * np.nan),
    ],
)
def test_other_weights_are_another_network(own, name, change):
    weights = random_weights()
    weights[name] = change(weights[name])
    assert different(own, fingerprints(weights)) == ["t5"]
    assert different(own, own) == []


def test_a_leaf_that_is_missing_is_another_network(own):
    less = {"t5": dict(list(own["t5"].items())[1:]), "autoencoder": own["autoencoder"]}
    assert different(own, less) == ["t5"]
