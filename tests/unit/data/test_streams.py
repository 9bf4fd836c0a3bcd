"""Example n of a run is a function of (config, seed, n): on any number of hosts, with any number of readers."""

import json
import random
from collections import Counter

import numpy as np
import pytest

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.bad_records import Origin
from dualdiff_jax.data.examples import ExampleMaker
from dualdiff_jax.data.mixture import Mixture, ShapedRecords
from dualdiff_jax.data.records.record import Record, Turn
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from tests.small_run import RECORDS, small_config, write_data
from tests.unit.data import photos

BATCH = 8
NOTHING = np.zeros(1, np.int32)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("streams")
    write_data(root)
    return root


def mixture(root, *, seed=0, batch=BATCH, host=0, hosts=1, sources=None, **data) -> Mixture:
    config = small_config(root)
    config.data.update(data)
    config.model.mmdit.position_grid = 32
    if sources is not None:
        config.data.sources = sources
    resolved = resolve(config)
    tokenizer = Tokenizer(root / "tokenizer")
    return Mixture(resolved.data, tokenizer, seed=seed, global_batch_size=batch, host=host, hosts=hosts)


def ids(data: Mixture, step: int) -> list[str]:
    return [f"{origin.source}/{origin.record_id}" for origins in data.origins(step).values() for origin in origins]


def rows(batches) -> list[bytes]:
    """Every example of the batches, image stream first."""
    return [
        b"".join(value[row].tobytes() for value in stream.values())
        for batch in batches
        for stream in batch
        for row in range(len(stream["token_ids"]))
    ]


def read(data: Mixture, first: int, count: int) -> list:
    batches = data.batches(first)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_restored_anywhere_on_other_hosts_and_workers_the_examples_are_the_same(root, workers):
    """The ids of the whole run, put together from what one, two and four hosts read in turn."""
    expected = [ids(mixture(root), step) for step in range(14)]
    rng = random.Random(workers)
    stops = [0, *sorted(rng.sample(range(1, 14), 2)), 14]  # an epoch is five steps
    whole = mixture(root)
    for hosts, first, last in zip((1, 2, 4), stops, stops[1:], strict=False):
        half = BATCH // hosts
        parts = [mixture(root, host=host, hosts=hosts, workers=workers, read_threads=2) for host in range(hosts)]
        for step in range(first, last):
            found = [ids(part, step) for part in parts]
            joined = [row[:half] for row in found], [row[half:] for row in found]
            assert [i for stream in joined for part in stream for i in part] == expected[step]
        wanted = [whole.batch(step) for step in range(first, last)]
        for host in {0, hosts - 1} if workers == 0 else {hosts - 1}:
            for batch, want in zip(read(parts[host], first, last - first), wanted, strict=True):
                for stream, other in zip(batch, want, strict=True):
                    for name, value in stream.items():
                        np.testing.assert_array_equal(value, other[name][host * half : (host + 1) * half])


def test_an_epoch_over_four_hosts_loses_no_record_and_shows_none_twice(root):
    parts = [mixture(root, host=host, hosts=4) for host in range(4)]
    epochs = [
        Counter(o.record_id for part in parts for step in range(first, first + 5) for o in part.origins(step)["image"])
        for first in (0, 5)
    ]
    assert epochs[0] == epochs[1] == Counter({f"captions.json[{i}]": 1 for i in range(RECORDS)})


def test_two_runs_with_one_seed_are_equal_and_with_two_are_not(root):
    assert rows(read(mixture(root), 0, 6)) == rows(read(mixture(root, read_threads=7), 0, 6))
    assert rows(read(mixture(root), 0, 6)) != rows(read(mixture(root, seed=1), 0, 6))


def test_sources_in_the_streams_have_orders_of_their_own(root):
    data = mixture(root)
    orders = {
        stream: [origin.record_id for step in range(5) for origin in data.origins(step)[stream]]
        for stream in ("image", "text")
    }
    assert orders["image"] != orders["text"]


def test_a_batch_that_hosts_cannot_share_is_told(root):
    with pytest.raises(UserError, match="train.global_batch_size 8 does not divide over 3 hosts"):
        mixture(root, hosts=3)


def test_shares_over_a_hundred_thousand_draws_are_the_weights(tmp_path, monkeypatch):
    """The shares of the sources, and of the captions within one."""
    write_data(tmp_path, records=1400)
    record = Record("any", captions={"caption": ("first",), "re_caption": ("second",)}, turns=(Turn("", ""),))

    def drawn(maker, number, rng):
        name = maker._caption(record, rng)[0] if maker._config.task == "captioning" else ""
        return {"token_ids": NOTHING}, Origin(maker._config.name, name, (), 0)

    monkeypatch.setattr(ExampleMaker, "__call__", drawn)
    sources = small_config(tmp_path).to_dict()["data"]["sources"]
    more = sources[1] | {"name": "more", "weight": 0.7, "caption_weights": (0.9, 0.1)}
    given = [sources[0], sources[1] | {"weight": 2.0}, more, sources[2] | {"weight": 1.3}]
    data = mixture(tmp_path, sources=given, batch=1000)
    draws = Counter((o.source, o.record_id) for step in range(100) for o in data._steps._streams["text"][step][1])
    by_source = Counter()
    for (name, _), count in draws.items():
        by_source[name] += count
    assert by_source.total() == 100_000
    for name, weight in {"captions": 2.0, "more": 0.7, "questions": 1.3}.items():
        p = weight / 4.0
        assert abs(by_source[name] - p * 100_000) < 3 * (p * (1 - p) * 100_000) ** 0.5, name
    for name, p in (("captions", 0.5), ("more", 0.9)):
        total = by_source[name]
        assert abs(draws[name, "caption/0"] - p * total) < 4 * (p * (1 - p) * total) ** 0.5, name


def photo_sources(root, **changes):
    files = photos.write_json(root)
    common = dict(root=str(root), files=files, height=32, width=32, buckets=((24, 40),)) | changes
    return [
        dict(name="draw", task="image_generation", weight=1.0, **common),
        dict(name="read", task="captioning", weight=1.0, **common),
    ]


def test_each_batch_has_one_bucket_the_same_in_both_streams(root, tmp_path):
    data = mixture(root, sources=photo_sources(tmp_path), batch=4)
    seen = Counter()
    for step in range(60):
        batch = data.batch(step)
        assert batch.image["image"].shape == batch.text["image"].shape
        seen[batch.image["image"].shape[1:3]] += 1
        for origin in data.origins(step)["image"]:
            height, width = photos.size(int(origin.record_id[len("list.json[") : -1]))
            is_wide = width / height > (40 / 24) ** 0.5
            assert batch.image["image"].shape[1:3] == ((24, 40) if is_wide else (32, 32))
    wide = sum(120 / photos.size(i)[0] > (40 / 24) ** 0.5 for i in range(photos.COUNT))
    assert 0 < wide < photos.COUNT
    assert seen[24, 40] == pytest.approx(60 * wide / photos.COUNT, abs=1)


def test_a_bucket_without_anything_to_read_is_told(root, tmp_path):
    sources = photo_sources(tmp_path)
    sources[1]["min_side"] = 100  # leaves out the wide ones
    with pytest.raises(UserError, match="no captioning or instruction source has an image for 24 x 40"):
        mixture(root, sources=sources)


def talk(index, has_image):
    said = [{"from": "human", "value": "which digit is this?"}, {"from": "gpt", "value": "three"}]
    return {"id": str(index), "conversations": said} | ({"image": f"images/{index}.jpg"} if has_image else {})


def test_texts_without_an_image_have_batches_of_their_own_by_their_share(root, tmp_path):
    photos.write_images(tmp_path)
    (tmp_path / "talk.json").write_text(json.dumps([talk(i, i < 4) for i in range(6)]))
    draw, _ = photo_sources(tmp_path, buckets=())
    llava = dict(name="talk", root=str(tmp_path), files="talk.json", format="llava", task="instruction")
    data = mixture(root, sources=[draw, llava | dict(height=32, width=32)], batch=4)
    without = 0
    for step in range(30):
        batch = data.batch(step)
        assert batch.image["image"].shape == (4, 32, 32, 3)
        numbers = {int(origin.record_id.split()[-1]) for origin in data.origins(step)["text"]}
        if "image" in batch.text:
            assert numbers <= {0, 1, 2, 3}
        else:
            assert numbers <= {4, 5} and set(batch.text) == {"token_ids", "is_answer"}
            without += 1
    assert without == 10
    with pytest.raises(UserError, match="talk: has texts without an image, which cannot be drawn from"):
        # A dialogue cannot be a task to draw from by the config; a source that says otherwise is caught all the same.
        data._batches_by_stream({"image": {None: [part(data)]}, "text": {}})


def part(data):
    return ShapedRecords(next(source for source in data._config.sources if source.name == "talk"), None, 1.0)


def test_a_question_can_be_asked_of_every_caption(root):
    sources = small_config(root).to_dict()["data"]["sources"]
    asked = sources[1] | {"name": "asked", "task": "instruction", "question": "which digit is this?"}
    data = mixture(root, sources=[sources[0], asked], text_length=20)
    tokenizer = Tokenizer(root / "tokenizer")
    prompt = tokenizer.question_ids("which digit is this?", 20)
    batch = data.batch(0)
    assert (batch.text["token_ids"][:, : len(prompt)] == prompt).all()
    assert not batch.text["is_answer"][:, : len(prompt)].any()
    texts = [tokenizer.decode(row[len(prompt) :]) for row in batch.text["token_ids"]]
    captions = {r[key] for r in json.loads((root / "captions.json").read_text()) for key in ("caption", "re_caption")}
    assert set(texts) <= captions
