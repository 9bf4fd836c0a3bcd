"""Training data in a bucket: the batches of local files bit by bit, few requests, and sentences for faults."""

import dataclasses
import json
import os
import pickle
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from demo.data import write_tokenizer
from dualdiff_jax.cli.data import inspect_data
from dualdiff_jax.config import DataConfig
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.formats import array_record_chunks, parquet, tar_index
from dualdiff_jax.data.formats.array_record import pack, write_records
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.images import read_image
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.records import forward, index, local_cache, patterns, ranges
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.local_cache import LocalCache
from dualdiff_jax.data.records.ranges import RangeReader
from dualdiff_jax.data.records.record import MISSING, UNREADABLE, DataError
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.encoding import chunks
from dualdiff_jax.encoding.frozen_encoder import FrozenEncoder
from dualdiff_jax.encoding.writer import encode_sources
from dualdiff_jax.errors import StuckError, UserError
from dualdiff_jax.files import as_path
from dualdiff_jax.sharding import make_mesh
from tests.end_to_end.command import HANG
from tests.small_run import small_run
from tests.unit.data import photos
from tests.unit.data.photos import COUNT, WRITERS, source
from tests.unit.tiny import random_weights

OPTIONS = ("group_size:1", "group_size:3", "group_size:1,uncompressed", "group_size:4,zstd:9")
TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A part."}]


def write_gqa(root: Path) -> str:
    photos.write_images(root)
    questions = {
        str(i): {"imageId": str(i), "question": f"which part? {i}", "answer": f"part {i}"} for i in range(COUNT)
    }
    (root / "train_balanced_questions.json").write_text(json.dumps(questions))
    return ""


def write_llava(root: Path) -> str:
    photos.write_images(root)
    records = [{"id": str(i), "image": f"images/{i}.jpg", "conversations": TURNS} for i in range(COUNT)]
    (root / "llava_v1_5_mix665k.json").write_text(json.dumps([*records, {"id": "t", "conversations": TURNS[1:] * 2}]))
    return ""


def write_coco(root: Path) -> str:
    photos.write_images(root)
    shutil.copytree(root / "images", root / "train2014")
    images = [{"id": i, "file_name": f"{i}.jpg", "height": photos.size(i)[0], "width": 120} for i in range(COUNT)]
    captions = [{"image_id": i, "caption": f"part {i}"} for i in range(COUNT)]
    (root / "annotations").mkdir()
    (root / "annotations/captions_train2014.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return ""


FORMATS = {
    **{name: (dict(format=form), write) for name, (form, write) in WRITERS.items()},
    "gqa": (dict(format="gqa", task="instruction"), write_gqa),
    "llava": (dict(format="llava", task="instruction"), write_llava),
    "coco_captions": (dict(format="coco_captions"), write_coco),
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


@pytest.fixture
def folder(bucket, request):
    yield as_path(f"{bucket.root}/{request.node.name.replace('[', '-').replace(']', '').replace(' ', '_')}")
    bucket.fail()


def upload(local: Path, target) -> None:
    for file in sorted(local.rglob("*")):
        if file.is_file():
            (target / file.relative_to(local).as_posix()).upload(file)


def written(name: str, local: Path, target) -> tuple[str, dict]:
    """(files, other fields) of a small data set on the disk and in the bucket."""
    changes, write = FORMATS[name]
    files = write(local)
    upload(local, target)
    return files, changes


def mixture(root, files: str, tokenizer: Tokenizer, changes: dict, **data) -> Mixture:
    config = to_dict(source(root, files, **changes))
    given = {"sources": [config], "tokenizer": str(tokenizer.folder), "text_length": 32, "read_threads": 4} | data
    return Mixture(resolve(given, DataConfig), tokenizer, streams=("text",), seed=0, global_batch_size=4)


def read(data: Mixture, count: int = 4) -> list[bytes]:
    batches = data.batches()
    found = [b"".join(value.tobytes() for _, value in sorted(next(batches).text.items())) for _ in range(count)]
    batches.close()
    return found


def requests(bucket, action) -> int:
    """How many requests ``action`` makes."""
    before = _settled(bucket)
    action()
    return _settled(bucket) - before


def _settled(bucket) -> int:
    """The number of requests when the threads of earlier readings have made their last."""
    for thread in threading.enumerate():
        if thread.name.startswith(("dualdiff-batches", "grain-")):
            thread.join(HANG)
            assert not thread.is_alive(), thread
    return sum(bucket.requests().values())


@pytest.mark.parametrize("name", FORMATS)
def test_batches_and_fingerprint_are_those_of_local_files(tmp_path, folder, tokenizer, name, monkeypatch):
    monkeypatch.setattr(index, "SMALL", 1)  # so that indexes are kept as those of large files
    files, changes = written(name, tmp_path / "data", folder)
    local, remote = (mixture(root, files, tokenizer, changes) for root in (tmp_path / "data", folder))
    assert read(local) == read(remote)
    for step in range(4):
        assert local.record_ids(step) == remote.record_ids(step)
    assert local.fingerprint() == remote.fingerprint()
    kept = mixture(folder, files, tokenizer, changes, local_cache=str(tmp_path / "kept"), local_cache_gb=0.1)
    assert read(kept) == read(kept) == read(local)


@pytest.mark.parametrize("name", ["json", "array_record"])
def test_worker_processes_read_the_same(tmp_path, folder, tokenizer, name):
    files, changes = written(name, tmp_path / "data", folder)
    local = mixture(tmp_path / "data", files, tokenizer, changes)
    assert read(mixture(folder, files, tokenizer, changes, workers=2)) == read(local)


def test_filters_and_buckets_by_the_heads_of_images(tmp_path, folder, tokenizer):
    files, changes = written("tar", tmp_path / "data", folder)
    changes |= dict(min_side=100, buckets=((64, 128), (128, 64)), caption_keys=("caption",), caption_weights=(1.0,))
    local, remote = (mixture(root, files, tokenizer, changes) for root in (tmp_path / "data", folder))
    assert read(local) == read(remote)


def test_a_record_takes_one_request(tmp_path, bucket, folder):
    for name in ("json", "tar", "array_record"):
        files, changes = written(name, tmp_path / name, folder / name)
        opened = open_source(source(folder / name, files, **changes))
        count = requests(bucket, lambda o=opened: [photos.content(o[i]) for i in range(COUNT)])
        assert count == COUNT, name


def test_many_files_are_looked_for_by_one_listing(bucket, folder):
    names = [f"{number:03d}.tar" for number in range(60)]
    for name in names:
        (folder / "part-0" / name).write_bytes(b"")
        (folder / "part-1" / name / "below").write_bytes(b"")  # a folder of that name
    found = []
    assert requests(bucket, lambda: found.extend(patterns.expand(str(folder), "part-0/{000..059}.tar"))) <= 2
    assert found == [folder / "part-0" / name for name in names]
    assert patterns.expand(str(folder), "part-*/*.tar") == found
    with pytest.raises(UserError, match=r"060\.tar: there is no such file \(the first of 3 missing files\)"):
        patterns.expand(str(folder), "part-0/{000..062}.tar")
    with pytest.raises(UserError, match=r"no file matches '\*\.zip'"):
        patterns.expand(str(folder), "*.zip")


def test_reads_overlap(tmp_path, bucket, folder, tokenizer):
    files, changes = written("json", tmp_path / "data", folder)
    data = mixture(folder, files, tokenizer, changes, read_threads=16)
    bucket.fail(together=8)
    read(data, 8)
    assert bucket.were_together()


def test_row_groups_of_parquet_arrive_side_by_side(tmp_path, bucket, folder):
    files, changes = written("parquet", tmp_path / "data", folder)
    opened = pickle.loads(pickle.dumps(open_source(source(folder, files, **changes))))
    bucket.fail(together=COUNT // 2)  # row groups of two records
    threads = [threading.Thread(target=opened.__getitem__, args=(i,)) for i in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bucket.were_together()


def test_a_column_longer_than_any_record_is_read_in_pieces(tmp_path, bucket, folder, monkeypatch):
    files, changes = written("parquet", tmp_path / "data", folder)
    here, there = (open_source(source(place, files, **changes)) for place in (tmp_path / "data", folder))
    for module in (parquet, ranges):
        monkeypatch.setattr(module, "LONGEST", 1000)
    for number in range(COUNT):
        assert (there[number].captions, there[number].image) == (here[number].captions, here[number].image)


def test_an_index_is_built_in_one_pass_and_other_hosts_find_it(tmp_path, bucket, folder, monkeypatch):
    monkeypatch.setattr(index, "SMALL", 1)
    monkeypatch.setattr(forward, "PIECE", 4096)
    files, changes = written("tar", tmp_path / "data", folder)
    size = (folder / "00000.tar").stat().st_size
    before = bucket.requests().get("GET data", 0)
    requests(bucket, lambda: tar_index.tar_index(folder / "00000.tar"))
    assert bucket.requests()["GET data"] - before == -(-size // 4096)  # each piece once
    local = tar_index.tar_index(tmp_path / "data" / "00000.tar")
    np.testing.assert_array_equal(tar_index.tar_index(folder / "00000.tar"), local)
    open_source(source(folder, files, **changes))
    assert len(list((folder / ".dualdiff_index").iterdir())) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other host"))
    monkeypatch.setattr("dualdiff_jax.data.formats.tar.tar_index", None)
    assert len(open_source(source(folder, files, **changes))) == COUNT
    photos.write_tar(tmp_path / "new", "txt")
    monkeypatch.undo()
    monkeypatch.setattr(index, "SMALL", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(tmp_path / "new", folder)  # one index replaces the other
    open_source(source(folder, files, **changes | dict(caption_keys=("caption",), caption_weights=(1.0,))))
    assert len(list((folder / ".dualdiff_index").iterdir())) == 2


def test_a_bucket_that_may_not_be_written_is_read(tmp_path, bucket, folder, tokenizer, monkeypatch):
    monkeypatch.setattr(index, "SMALL", 1)
    files, changes = written("tar", tmp_path / "data", folder)
    bucket.fail(refused=True)
    assert read(mixture(folder, files, tokenizer, changes)) == read(
        mixture(tmp_path / "data", files, tokenizer, changes)
    )
    bucket.fail()
    assert not (folder / ".dualdiff_index").is_dir()


def test_a_cut_shard_breaks_where_it_does_on_a_disk(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(forward, "PIECE", 1000)
    photos.write_tar(tmp_path)
    content = (tmp_path / "00000.tar").read_bytes()
    for number, changed in enumerate((content[:-9000], content + bytes(30_000), content + content, b"x" * 5000)):
        (tmp_path / "a.tar").write_bytes(changed)
        (folder / f"{number}" / "a.tar").upload(tmp_path / "a.tar")
        try:
            expected = tar_index.tar_index(tmp_path / "a.tar")
        except UserError as error:
            with pytest.raises(UserError) as found:
                tar_index.tar_index(folder / f"{number}" / "a.tar")
            assert str(found.value).partition("a.tar")[2] == str(error).partition("a.tar")[2]
        else:
            np.testing.assert_array_equal(tar_index.tar_index(folder / f"{number}" / "a.tar"), expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_records_of_array_record_by_ranges(tmp_path, folder, monkeypatch, options):
    """Some cross the blocks of 64 KiB, one fills several, one is empty."""
    from array_record.python import array_record_module

    rng, records = np.random.default_rng(0), [b""]
    records += [rng.bytes(int(n)) for n in rng.integers(0, 50_000, 20)] + [bytes(400_000), rng.bytes(200_000)]
    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "a"), options)
    for record in records:
        writer.write(record)
    writer.close()
    (folder / "a").upload(tmp_path / "a")
    rows = array_record_chunks.array_record_index(folder / "a").tolist()
    reader = RangeReader()
    found = [
        array_record_chunks.chunk_records(reader.read(folder / "a", start, length), start)[number]
        for start, length, number in rows
    ]
    assert found == records


def test_a_foreign_or_cut_array_record_is_refused(tmp_path, folder):
    write_records(tmp_path / "a", map(photos.record, range(COUNT)))
    content = (tmp_path / "a").read_bytes()
    for number, changed in enumerate((b"", b"x" * 200_000, content[:-5], content[:-65536], bytes(len(content)))):
        (folder / str(number)).write_bytes(changed)
        with pytest.raises(UserError, match=f"{number}: cannot be read as ArrayRecord .*; copy it again"):
            open_source(source(folder, str(number), format="array_record"))


def test_a_missing_object_is_a_bad_record_and_a_missing_list_ends_the_run(tmp_path, folder):
    files, changes = written("json", tmp_path / "data", folder)
    opened = open_source(source(folder, files, **changes))
    (folder / "images/2.jpg").unlink()
    with pytest.raises(DataError, match=r"gs://bucket/.*images/2\.jpg: there is no such file") as error:
        read_image(opened[2].image, 64, 64)
    assert error.value.cause == MISSING
    with pytest.raises(UserError, match=r"gs://bucket/.*none\.json: there is no such file; check the root gs://"):
        open_source(source(folder, "none.json"))
    with pytest.raises(UserError, match=r"images: is a folder, not a file"):
        open_source(source(folder, "images"))
    (folder / "list.json").write_text("{}")
    with pytest.raises(UserError, match=r"^gs://bucket/[^ ]*/list\.json: expected a list of records"):
        open_source(source(folder, files))


def test_a_path_stays_within_its_root(tmp_path, folder):
    photos.write_images(tmp_path)
    names = ["images/../images/0.jpg", "../other/0.jpg", "gs://bucket/other/0.jpg", str(tmp_path / "images/1.jpg")]
    (folder / "list.json").write_text(json.dumps([photos.fields(0) | {"image_path": name} for name in names]))
    upload(tmp_path, folder)
    opened = open_source(source(folder, "list.json"))
    assert photos.content(opened[0]) == photos.jpeg(0) and photos.content(opened[3]) == photos.jpeg(1)
    with pytest.raises(DataError, match="leaves the root"):
        opened[1]
    with pytest.raises(DataError, match="should be the path of a file"):
        opened[2]


def test_a_server_without_answers_ends_the_run_within_patience(tmp_path, bucket, folder, tokenizer):
    files, changes = written("tar", tmp_path / "data", folder)
    data = mixture(folder, files, tokenizer, changes, patience=1.0)
    bucket.fail(delay=5.0)
    with pytest.raises(StuckError, match=r"no batch came for 1 s \(data.patience\); being read: photos\[\d\]"):
        read(data)


def test_faults_of_a_moment_change_no_batch(tmp_path, bucket, folder, tokenizer):
    files, changes = written("array_record", tmp_path / "data", folder)
    remote = mixture(folder, files, tokenizer, changes)
    bucket.fail(unavailable=0.1, reset=0.1)
    assert read(remote) == read(mixture(tmp_path / "data", files, tokenizer, changes))


def test_data_are_encoded_from_a_bucket_into_a_bucket_and_read_there(tmp_path, bucket, folder, monkeypatch):
    """The second command encodes nothing, and after a change of an image one file alone."""
    monkeypatch.setattr(chunks, "RECORDS_PER_FILE", 4)
    config, tokenizer = small_run(tmp_path / "run", model={"mmdit": {"depth": 1}})
    encoder = FrozenEncoder(config.model, random_weights(config.model), make_mesh(config.mesh, jax.devices()[:1]))
    photos.write_json(tmp_path / "data")
    upload(tmp_path / "data", folder / "data")

    def encode(root, output) -> int:
        done = [0]
        data = dataclasses.replace(config.data, sources=(source(root, "list.json", height=8, width=8),))
        progress = lambda count, total: done.append(count)  # noqa: E731
        encode_sources(data, encoder, tokenizer, output, made_by={"model": "test"}, progress=progress)
        return done[-1]

    def records(output) -> list[bytes]:
        opened = open_source(source(output / "photos", "*.array_record", format="array_record"))
        return [pack(opened[i]) for i in range(len(opened))]

    assert encode(folder / "data", folder / "encoded") == encode(tmp_path / "data", tmp_path / "encoded") == COUNT
    assert records(folder / "encoded") == records(tmp_path / "encoded")
    assert encode(folder / "data", str(folder / "encoded")) == 0
    (folder / "data/images/5.jpg").write_bytes(photos.jpeg(3))
    assert encode(folder / "data", folder / "encoded") == 2
    assert len(records(folder / "encoded")) == COUNT
    (folder / "encoded/photos/8x8-000001.array_record").unlink()
    with pytest.raises(UserError, match="encoding is not finished, 1 of 2 files are missing"):
        records(folder / "encoded")


def test_the_page_of_inspect_data_lies_in_a_bucket(tmp_path, bucket, folder):
    config, _ = small_run(tmp_path / "run")
    upload(tmp_path / "run", folder / "run")
    sources = tuple(dataclasses.replace(given, root=str(folder / "run")) for given in config.data.sources)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))
    inspect_data(config, str(folder / "out"), 6, overwrite=False)
    page = (folder / "out" / "data.html").read_text()
    assert "What the model will see" in page and page.count("data:image/png") >= 18
    with pytest.raises(UserError, match=r"data\.html: exists; name another --output, or give --overwrite"):
        inspect_data(config, str(folder / "out"), 6, overwrite=False)
    bucket.fail(refused=True)
    with pytest.raises(UserError, match=r"out: may not be written .*choose another --output"):
        inspect_data(config, str(folder / "out"), 6, overwrite=True)


def test_tensorflow_datasets_are_refused(folder):
    with pytest.raises(UserError, match="reads ArrayRecord from disks alone; copy the prepared folder to a disk"):
        open_source(source(folder, "coco/1.0", format="tfds"))


def test_what_was_read_is_kept_on_the_disk(tmp_path, bucket, folder, tokenizer):
    given = dict(local_cache=str(tmp_path / "kept"), local_cache_gb=0.1, read_threads=1)
    for name in ("json", "tar", "array_record", "parquet"):
        files, changes = written(name, tmp_path / name, folder / name)
        first = read(mixture(folder / name, files, tokenizer, changes, **given))
        data = mixture(folder / name, files, tokenizer, changes, **given)
        again = []
        count = requests(bucket, lambda data=data, again=again: again.extend(read(data)))
        assert count <= 2 and again == first, name  # one for the version of each file that holds records


def test_an_overwritten_file_is_not_taken_from_the_disk(tmp_path, folder):
    kept = LocalCache(str(tmp_path / "kept"), 0.1)
    for content in (b"one", b"two"):
        (folder / "x").write_bytes(content)
        assert RangeReader(kept).read(folder / "x", 0, 3) == content


def test_the_longest_unused_are_removed(tmp_path):
    kept = LocalCache(str(tmp_path), 0.01)
    calls = []

    def get(name: str) -> bytes:
        return kept.read(name, lambda: calls.append(name) or name.encode() * 25_000)

    for number in range(60):  # 15 MB
        assert get(f"{number:04d}------") == f"{number:04d}------".encode() * 25_000
        assert get("0000------")[:4] == b"0000"
        assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 10_000_000
    assert calls.count("0000------") == 1 and len(calls) == 60
    get("0059------"), get("0001------")
    assert calls[60:] == ["0001------"]


def test_other_files_in_the_folder_are_not_touched(tmp_path):
    mine = [tmp_path / name for name in ("de/album/holiday.jpg", "de/letter.txt", "00/00000.tar", "de/.hidden")]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 9_000_000)
        os.utime(file, (0, 0))
    kept = LocalCache(str(tmp_path), 0.01)
    for number in range(6):
        kept.read(f"{number}", lambda: b"z" * 3_000_000)
    assert all(file.stat().st_size == 9_000_000 for file in mine)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and path not in mine) <= 10_000_000


def test_a_damaged_or_half_written_file_is_read_again(tmp_path, monkeypatch):
    kept = LocalCache(str(tmp_path), 0.1)
    kept.read("x", lambda: b"content")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    for damaged in (b"", file.read_bytes()[:-1], b"x" * 20):
        file.write_bytes(damaged)
        assert kept.read("x", lambda: b"content") == b"content"
    left = file.with_name(f".{file.name}.1-2.partial")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    LocalCache(str(tmp_path), 0.1).read("y", lambda: b"other")
    assert not left.exists() and file.exists()


def test_a_disk_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    kept = LocalCache(str(tmp_path / "kept"), 0.1)

    def full(file, owner):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_cache, "new_file", full)
    assert [kept.read(name, lambda: b"content") for name in "abc"] == [b"content"] * 3
    assert len(caplog.records) == 1 and "No space left" in caplog.text


def test_a_cache_in_a_bucket_is_refused(folder):
    with pytest.raises(UserError, match="is in a bucket; name a folder on a local disk"):
        LocalCache(str(folder), 1.0)
    with pytest.raises(UserError, match="cannot be made|may not be written"):
        LocalCache("/proc/none", 1.0)


def test_indexes_may_lie_in_a_bucket_of_their_own(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(index, "SMALL", 1)
    files = photos.write_tar(tmp_path / "data")
    opened = open_source(source(tmp_path / "data", files, format="tar"), IndexCache(str(folder / "indexes")))
    assert len(opened) == COUNT and len(list((folder / "indexes").iterdir())) == 2
    assert not (tmp_path / "data" / ".dualdiff_index").exists()


def test_a_folder_for_indexes_that_refuses_them_costs_a_warning(bucket, tmp_path, folder, monkeypatch, caplog):
    monkeypatch.setattr(index, "SMALL", 1)
    files = photos.write_tar(tmp_path / "data")
    bucket.fail(refused=True)
    opened = open_source(source(tmp_path / "data", files, format="tar"), IndexCache(str(folder / "indexes")))
    bucket.fail()
    assert len(opened) == COUNT
    (warning,) = [record.message for record in caplog.records if "no index can be kept there" in record.message]
    assert warning.startswith(f"{folder}/indexes: no index can be kept there (no permission or no credentials")
    assert warning.endswith("; each host derives its own")


def test_a_refused_read_is_a_sentence(folder, monkeypatch):
    def refuse(self, *part):
        raise PermissionError(13, "no permission or no credentials", str(self))

    (folder / "a.tar").write_bytes(bytes(20_000))
    for name in ("read_range", "read_up_to"):
        monkeypatch.setattr(f"dualdiff_jax.files.bucket_path.BucketPath.{name}", refuse)
    with pytest.raises(UserError, match=r"a\.tar: cannot be read .*no permission"):
        open_source(source(folder, "a.tar", format="tar"))
    (folder / "a.array_record").write_bytes(bytes(196_608))
    with pytest.raises(UserError, match="source 'photos' cannot be opened .*no permission.*check the files"):
        open_source(source(folder, "a.array_record", format="array_record"))
    with pytest.raises(DataError, match="is not readable; change its permissions") as error:
        read_image(folder / "a.tar", 8, 8)
    assert error.value.cause == UNREADABLE
