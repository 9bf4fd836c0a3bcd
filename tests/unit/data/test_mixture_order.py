"""What the order of a stream depends on: an older run resumes with the records that it would have seen."""

import hashlib

import grain
import pytest

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data import mixture as module
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from tests.small_run import small_config, write_data


def opened(root, seed: int = 0, **data) -> Mixture:
    if not (root / "captions.json").exists():
        write_data(root)
    config = small_config(root).to_dict()
    config["data"] |= data
    return Mixture(resolve(config).data, Tokenizer(root / "tokenizer"), seed=seed, global_batch_size=4)


def test_each_source_is_shuffled_by_a_seed_of_its_own_made_of_the_runs_seed_and_its_name(tmp_path, monkeypatch):
    seeds, seed = [], grain.MapDataset.seed
    monkeypatch.setattr(grain.MapDataset, "seed", lambda self, number: seeds.append(number) or seed(self, number))
    opened(tmp_path, seed=3)
    digests = [hashlib.sha256(f"3/{name}".encode()).digest() for name in ("images", "captions", "questions")]
    assert seeds == [int.from_bytes(digest[:4], "big") for digest in digests]


def test_another_size_of_a_source_has_another_seed_and_its_own_size_the_sources(tmp_path, monkeypatch):
    write_data(tmp_path)
    config = small_config(tmp_path).to_dict()
    for source in config["data"]["sources"]:
        source["buckets"] = ((8, 8), (16, 16))
    seeds, seed = [], grain.MapDataset.seed
    monkeypatch.setattr(grain.MapDataset, "seed", lambda self, number: seeds.append(number) or seed(self, number))
    divide = module.divide
    monkeypatch.setattr(module, "divide", lambda *args: {(16, 16): [0, 1], (8, 8): divide(*args).popitem()[1]})
    Mixture(resolve(config).data, Tokenizer(tmp_path / "tokenizer"), seed=0, global_batch_size=4)
    names = [f"0/{name}{shape}" for name in ("images", "captions", "questions") for shape in ("/(16, 16)", "")]
    assert seeds == [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") for name in names]


def test_the_readers_are_as_many_and_read_as_far_ahead_as_the_config_says(tmp_path, monkeypatch):
    found, options = [], grain.ReadOptions
    monkeypatch.setattr(grain, "ReadOptions", lambda **given: found.append(given) or options(**given))
    next(opened(tmp_path, read_threads=3, prefetch_batches=5).batches())
    assert found == [{"num_threads": 3, "prefetch_buffer_size": 5}]


@pytest.mark.parametrize("lengths", [(3, 5), (5, 3)])
def test_there_are_as_many_steps_as_the_shorter_stream_has(lengths):
    steps = module._Steps({name: range(length) for name, length in zip(("image", "text"), lengths, strict=True)})
    assert len(steps) == 3
