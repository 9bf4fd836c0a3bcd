"""Filters and buckets decide which records are trained on, and at which size."""

import json

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data import catalog
from dualdiff_jax.data.catalog import divide
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.errors import UserError
from tests.unit.data import photos
from tests.unit.data.photos import source

# (height, width), caption
RECORDS = [
    ((100, 100), "square"),
    ((100, 400), "wide"),
    ((400, 100), "tall"),
    ((100, 401), "too wide"),
    ((401, 100), "too tall"),
    ((99, 150), "small"),
    ((100, 100), "x"),
    ((100, 100), "x" * 40),
]
SQUARE = dict(height=64, width=64)


def write(root, with_sizes=True):
    records = []
    for number, ((height, width), caption) in enumerate(RECORDS):
        Image.new("RGB", (width, height)).save(root / f"{number}.jpg")
        record = {"image_path": f"{number}.jpg", "caption": caption}
        records.append(record | ({"height": height, "width": width} if with_sizes else {}))
    (root / "list.json").write_text(json.dumps(records))


def divided(root, files="list.json", cache=None, **changes):
    keys = dict(caption_keys=("caption",), caption_weights=(1.0,))
    config = source(root, files, **(keys | SQUARE | changes))
    found = divide(config, open_source(config), cache or IndexCache())
    return {shape: list(indexes) for shape, indexes in found.items()}


def test_without_filters_every_record_is_there_and_none_is_read(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(catalog, "catalog", None)
    assert divided(tmp_path) == {(64, 64): list(range(len(RECORDS)))}


@pytest.mark.parametrize("with_sizes", [True, False], ids=["sizes in the metadata", "sizes in the images"])
@pytest.mark.parametrize(
    ("filters", "left_out"),
    [
        ({"max_aspect": 4.0}, {3, 4}),
        ({"min_side": 100}, {5}),
        ({"min_caption": 2}, {6}),
        ({"max_caption": 39}, {7}),
        ({"max_aspect": 4.0, "min_side": 100, "min_caption": 2, "max_caption": 39}, {3, 4, 5, 6, 7}),
    ],
)
def test_each_filter_leaves_out_its_own(tmp_path, with_sizes, filters, left_out):
    write(tmp_path, with_sizes)
    kept = [i for i in range(len(RECORDS)) if i not in left_out]
    assert divided(tmp_path, **filters) == {(64, 64): kept}


def test_filters_that_no_record_passes_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match="'photos': none of its 8 records passes its filters"):
        divided(tmp_path, min_side=1000)


def test_an_image_goes_to_the_bucket_nearest_in_shape(tmp_path):
    write(tmp_path)
    found = divided(tmp_path, buckets=((32, 128), (128, 32), (48, 80)))
    assert found == {(64, 64): [0, 6, 7], (32, 128): [1, 3], (128, 32): [2, 4], (48, 80): [5]}


def test_a_turned_image_has_the_shape_that_is_seen(tmp_path):
    image = Image.new("RGB", (300, 100))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "list.json").write_text(json.dumps([{"image_path": "turned.jpg", "caption": "a"}]))
    assert divided(tmp_path, buckets=((32, 96), (96, 32))) == {(96, 32): [0]}


def test_a_damaged_record_stays_so_that_the_run_counts_it(tmp_path):
    write(tmp_path, with_sizes=False)
    (tmp_path / "2.jpg").write_bytes(b"no image")
    (tmp_path / "1.jpg").unlink()
    assert divided(tmp_path, min_side=101, buckets=((32, 128),)) == {(64, 64): [1, 2]}


def test_sizes_in_a_tar_are_read_from_the_heads_of_its_images(tmp_path, monkeypatch):
    files = photos.write_tar(tmp_path, "txt")
    monkeypatch.setattr("dualdiff_jax.data.formats.tar.HEAD", 1000)
    assert min(len(photos.jpeg(i)) for i in range(photos.COUNT)) > 1000
    kept = [i for i in range(photos.COUNT) if photos.size(i)[0] >= 96]
    assert divided(tmp_path, files, format="tar", min_side=96) == {(64, 64): kept} and 0 < len(kept) < photos.COUNT


def test_texts_without_an_image_are_a_shape_of_their_own(tmp_path):
    talk = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hello"}]
    photos.write_images(tmp_path)
    records = [
        {"image": f"images/{i}.jpg", "conversations": talk} if i % 3 else {"conversations": talk} for i in range(6)
    ]
    (tmp_path / "talk.json").write_text(json.dumps(records))
    form = dict(format="llava", task="instruction")
    assert divided(tmp_path, "talk.json", **form) == {(64, 64): [1, 2, 4, 5], None: [0, 3]}
    assert divided(tmp_path, "talk.json", **form, min_side=100) == {(64, 64): [4, 5], None: [0, 3]}


def test_the_catalog_is_made_once(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(catalog, "TASK", 2)
    cache = IndexCache(str(tmp_path / "cache"))
    first = divided(tmp_path, cache=cache, max_aspect=4.0)
    monkeypatch.setattr(catalog, "catalog", None)
    assert divided(tmp_path, cache=cache, max_aspect=4.0) == first
    assert divided(tmp_path, cache=cache, min_side=100) == {(64, 64): [0, 1, 2, 3, 4, 6, 7]}


def test_sources_that_read_a_file_differently_have_catalogs_of_their_own(tmp_path, monkeypatch):
    for name, side in (("full", 64), ("thumb", 8)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.jpg")
    fields = {"full": "full.jpg", "thumb": "thumb.jpg", "meta": {"text": "a photo"}}
    records = [fields | {"caption": "a photo", "question": "what?", "answer": "yes"}] * 3
    (tmp_path / "list.json").write_text(json.dumps(records))
    monkeypatch.setattr(catalog, "TASK", 1)
    cache, every = IndexCache(str(tmp_path / "cache")), {(64, 64): [0, 1, 2]}
    thumbs = dict(image_key="thumb", min_side=32)
    asked = dict(image_key="full", task="instruction", min_side=4)
    for _ in range(2):
        assert divided(tmp_path, cache=cache, image_key="full", min_side=32) == every
        with pytest.raises(UserError, match="none of its 3 records passes"):
            divided(tmp_path, cache=cache, **thumbs)
        assert divided(tmp_path, cache=cache, **asked) == every
        assert divided(tmp_path, cache=cache, image_key="full", min_caption=5) == every
        with pytest.raises(UserError, match="none of its 3 records passes"):
            divided(tmp_path, cache=cache, image_key="full", max_caption=5)
        assert divided(tmp_path, cache=cache, image_key="full", min_side=4, caption_keys=("meta/text",)) == every


def test_the_nearest_shape_is_that_of_the_smallest_ratio():
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (48, 80), (80, 48), (32, 128)]
    rows = np.concatenate([rng.integers(20, 2000, (200, 2)), np.zeros((200, 2), int)], axis=1).astype(np.uint16)
    for (height, width, *_), which in zip(rows.tolist(), catalog.nearest(sizes, rows), strict=True):
        ratios = [max(width / height * h / w, height / width * w / h) for h, w in sizes]
        assert ratios[which] == pytest.approx(min(ratios))
