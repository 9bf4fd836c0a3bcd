"""Batch n is a function of (config, seed, n), on any number of hosts."""

import json
from collections import Counter

import numpy as np
import pytest

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.fingerprint import differences
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from tests.small_run import RECORDS, small_config, small_run, write_data


def mixture(root, *, seed=0, batch=8, **places) -> Mixture:
    config, tokenizer = small_run(root)
    return Mixture(config.data, tokenizer, seed=seed, global_batch_size=batch, **places)


def same(one, other) -> bool:
    pairs = zip((*one.image.values(), *one.text.values()), (*other.image.values(), *other.text.values()), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_the_same_seed_gives_the_same_batches_and_another_seed_does_not(tmp_path):
    one, again, other = mixture(tmp_path), mixture(tmp_path), mixture(tmp_path, seed=1)
    assert all(same(one.batch(step), again.batch(step)) for step in range(12))
    assert not same(one.batch(3), other.batch(3))


def test_starting_at_any_step_gives_what_would_have_come(tmp_path):
    data = mixture(tmp_path)
    run = data.batches()
    whole = [next(run) for _ in range(14)]
    for start in (1, 5, 9, 13):
        assert same(next(data.batches(start)), whole[start])


def test_hosts_read_disjoint_rows_of_the_same_batch(tmp_path):
    whole = mixture(tmp_path).batch(7)
    parts = [mixture(tmp_path, host=host, hosts=2).batch(7) for host in range(2)]
    for stream in ("image", "text"):
        for key, rows in getattr(whole, stream).items():
            np.testing.assert_array_equal(np.concatenate([getattr(part, stream)[key] for part in parts]), rows)


def test_each_epoch_shows_every_picture_once_in_a_new_order(tmp_path):
    data = mixture(tmp_path)
    steps = RECORDS // 8
    epochs = [
        [image.tobytes() for step in range(first, first + steps) for image in data.batch(step).image["image"]]
        for first in (0, steps)
    ]
    assert len(set(epochs[0])) == RECORDS
    assert Counter(epochs[0]) == Counter(epochs[1])
    assert epochs[0] != epochs[1]


def test_the_weights_of_text_sources_are_kept(tmp_path):
    write_data(tmp_path)
    config = small_config(tmp_path).to_dict()
    config["data"]["sources"][1]["weight"] = 3.0
    data = Mixture(resolve(config).data, Tokenizer(tmp_path / "tokenizer"), seed=0, global_batch_size=8)
    captions = [answers.all() for step in range(20) for answers in data.batch(step).text["is_answer"]]
    assert np.mean(captions) == pytest.approx(0.75, abs=0.01)


def test_captions_are_chosen_by_their_weights(tmp_path):
    config, tokenizer = small_run(tmp_path)
    data = mixture(tmp_path)
    texts = [tokenizer.decode(ids) for step in range(50) for ids in data.batch(step).image["token_ids"]]
    share = np.mean(["handwritten" in text for text in texts])
    assert abs(share - 0.5) < 4 * 0.5 / len(texts) ** 0.5


def test_sizes_alternate_alike_in_both_streams_by_their_weights(tmp_path):
    write_data(tmp_path)
    config = small_config(tmp_path).to_dict()
    for source in [dict(source) for source in config["data"]["sources"][:2]]:
        config["data"]["sources"].append(source | {"name": source["name"] + "_wide", "width": 16, "weight": 2.0})
    data = Mixture(resolve(config).data, Tokenizer(tmp_path / "tokenizer"), seed=0, global_batch_size=4)
    widths = [(data.batch(step).image["image"].shape[2], data.batch(step).text["image"].shape[2]) for step in range(30)]
    assert all(image == text for image, text in widths)
    assert Counter(widths) == {(8, 8): 10, (16, 16): 20}


def test_the_fingerprint_is_that_of_the_data_that_were_opened(tmp_path):
    data = mixture(tmp_path)
    before = data.fingerprint()
    assert data.counts() == {"images": RECORDS, "captions": RECORDS, "questions": RECORDS}
    assert {name: fingerprint["records"] for name, fingerprint in before.items()} == data.counts()
    file = tmp_path / "questions.json"
    file.write_text(file.read_text().replace("three", "seven"))
    assert data.fingerprint() == before  # a checkpoint is of what was trained on
    assert differences(before, mixture(tmp_path).fingerprint()) == "source 'questions' (questions.json)"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: file.unlink(), "there is no such file"),
        (lambda file: file.write_text("[1, 2"), "is not JSON"),
        (lambda file: file.write_text("[]"), "expected a list of records"),
        (lambda file: file.write_text('{"a": 1}'), "expected a list of records"),
        (lambda file: file.write_text("[3]"), r"captions.json\[0\] is not an object"),
        (
            lambda file: file.write_text('[{"image_path": "x.png", "caption": 3}]'),
            r"captions.json\[0\]: caption should be text",
        ),
        (
            lambda file: file.write_text(json.dumps([{"image_path": "x.png", "caption": "a", "re_caption": ""}])),
            "there is no such image",
        ),
    ],
)
def test_a_bad_source_is_named_when_it_is_opened(tmp_path, damage, told):
    write_data(tmp_path)
    damage(tmp_path / "captions.json")
    with pytest.raises(UserError, match=told) as error:
        mixture(tmp_path)
    assert "captions.json" in str(error.value)
