"""A model's fingerprint changes with any bit of it, and not with where or how it lies."""

import dataclasses

import jax
import numpy as np

from dualdiff_jax.evaluation.model_fingerprint import _sums, model_fingerprint
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from tests.small_run import small_run
from tests.unit.tiny import random_weights


def test_any_bit_and_any_place_counts():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.int8, jax.numpy.bfloat16):
        leaf = jax.numpy.asarray(rng.standard_normal((6, 7)) * 50, dtype)
        sums = [np.asarray(_sums(leaf)).tolist()]
        sums += [np.asarray(_sums(leaf.at[index].set(leaf[index] + 1))).tolist() for index in ((0, 0), (3, 4), (5, 6))]
        sums += [np.asarray(_sums(leaf[::-1])).tolist(), np.asarray(_sums(leaf.reshape(7, 6).T.copy())).tolist()]
        assert len({tuple(each) for each in sums}) == len(sums), dtype
        assert np.asarray(_sums(leaf.copy())).tolist() == sums[0]


def test_a_model_is_known_by_its_weights_not_by_its_samplers(tmp_path):
    config, tokenizer = small_run(tmp_path, model={"mmdit": {"depth": 1}})
    weights = random_weights(config.model)
    found = model_fingerprint(DualDiffusionPipeline(config.model, weights, tokenizer))
    again = {name: weights[name].copy() for name in reversed(list(weights))}
    sampling = dataclasses.replace(config.model.sampling, answer_steps=9, batch_size=3)
    other = dataclasses.replace(config.model, sampling=sampling)
    assert model_fingerprint(DualDiffusionPipeline(other, again, tokenizer)) == found
    name = next(name for name in weights if name.endswith("bias"))
    changed = weights | {name: weights[name].at[(0,) * weights[name].ndim].add(1e-3)}
    assert model_fingerprint(DualDiffusionPipeline(config.model, changed, tokenizer)) != found
    half = dataclasses.replace(config.model, compute_dtype="bfloat16")
    assert model_fingerprint(DualDiffusionPipeline(half, weights, tokenizer)) != found
