"""Lines appended to a bucket are read back in their order, whatever was killed or refused in between."""

import pytest

from dualdiff_jax.files import appended, as_path
from dualdiff_jax.files.appended import LineLog
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.training.telemetry.sinks import JsonLines


@pytest.fixture
def file(bucket, request):
    return as_path(f"{bucket.root}/{request.node.name}/metrics.jsonl")


def names(file):
    return sorted(path.name for path in file.parent.iterdir())


def test_a_part_grows_up_to_a_bound_and_each_process_begins_one(file, monkeypatch):
    monkeypatch.setattr(appended, "PART", 4)
    log = LineLog(file)
    assert not log.exists() and log.read() == b""
    for line in (b"1\n", b"2\n", b"3\n"):
        log.append(line)
    LineLog(file).append(b"4\n")
    assert LineLog(file).read() == log.read() == b"1\n2\n3\n4\n" and log.exists()
    assert names(file) == ["metrics.000001.jsonl", "metrics.000002.jsonl", "metrics.000003.jsonl"]


def test_a_hosts_own_log_and_other_objects_are_not_taken_for_parts(file):
    LineLog(file).append(b"1\n")
    LineLog(file.with_name("metrics.1.jsonl")).append(b"other\n")
    file.with_name("metrics.jsonl.damaged").write_bytes(b"other\n")
    assert LineLog(file).read() == b"1\n"
    assert LineLog(file.with_name("metrics.1.jsonl")).read() == b"other\n"


def test_a_log_that_was_copied_from_a_disk_comes_first(file):
    file.write_bytes(b"1\n")
    log = LineLog(file)
    assert log.exists()
    log.append(b"2\n")
    assert log.read() == b"1\n2\n"
    log.replace(b"1\n")
    assert log.read() == b"1\n" and names(file) == ["metrics.000002.all.jsonl"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["write_bytes", "unlink"])
def test_killed_while_it_replaces_it_has_all_of_the_old_or_all_of_the_new(file, monkeypatch, moment):
    log = LineLog(file)
    log.append(b"1\n")
    LineLog(file).append(b"2\n")

    def end(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(BucketPath, moment, end)
        with pytest.raises(Killed):
            LineLog(file).replace(b"new\n")
    assert LineLog(file).read() == (b"1\n2\n" if moment == "write_bytes" else b"new\n")
    later = LineLog(file)
    later.append(b"3\n")
    assert LineLog(file).read() == (b"1\n2\n3\n" if moment == "write_bytes" else b"new\n3\n")
    later.replace(b"newer\n")
    assert LineLog(file).read() == b"newer\n" and len(names(file)) == 1


def test_what_is_refused_is_kept_and_written_with_the_next(bucket, file):
    log = LineLog(file)
    log.append(b"1\n")
    bucket.fail(refused=True)
    try:
        with pytest.raises(OSError, match="no permission"):
            log.append(b"2\n")
    finally:
        bucket.fail()
    assert log.read() == b"1\n"
    log.append(b"3\n")
    assert log.read() == b"1\n2\n3\n"


def test_a_resumed_run_drops_the_records_after_its_checkpoint(file):
    first = JsonLines(file, 0)
    for step in (1, 2, 3):
        first.write(step, {"loss": float(step)})
    LineLog(file).append(b"no record\n")
    resumed = JsonLines(file, 2)
    assert resumed.last == {"step": 2, "loss": 2.0}
    resumed.write(3, {"loss": 5.0})
    assert LineLog(file).read() == b'{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 5.0}\n'
    assert LineLog(file.with_name("metrics.jsonl.damaged")).read() == b"no record\n"
