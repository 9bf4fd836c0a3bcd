"""The folders that a run writes are tried and left as they were."""

import errno
import time

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import locked_folder
from dualdiff_jax.files import probe as probe_module
from dualdiff_jax.files.lock import owner_now
from dualdiff_jax.files.probe import probe
from dualdiff_jax.readiness import folders
from dualdiff_jax.readiness.finding import attempt, faulty
from dualdiff_jax.training.workdir import prepare_workdir
from tests.small_run import small_run


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def config(tmp_path):
    return small_run(tmp_path / "data")[0]


def by_name(found):
    return {finding.what: finding for finding in found}


def test_a_probe_leaves_nothing_and_knows_the_time(tmp_path):
    assert abs(probe(tmp_path / "a" / "b")) < 30
    assert tree(tmp_path) == []
    (tmp_path / "kept").mkdir()
    probe(tmp_path / "kept")
    assert tree(tmp_path) == [str(tmp_path / "kept")]


def test_a_probe_that_reads_back_as_something_else_fails_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_module.Path, "read_text", lambda *_, **__: "other")
    with pytest.raises(OSError, match="reads back as something else"):
        probe(tmp_path / "a")
    assert tree(tmp_path) == []


def test_clocks_that_lie_apart_are_a_warning(tmp_path, config, monkeypatch):
    now = time.time
    monkeypatch.setattr(probe_module.time, "time", lambda: now() + 100)
    clock = by_name(folders.folder_findings(config, str(tmp_path / "run")))["clock of workdir"]
    assert clock.status == "warning" and clock.found.endswith("s behind this host's")


def test_the_error_of_a_bucket_says_what_to_do_and_that_of_a_disk_stays():
    refused = faulty("data", OSError(errno.EACCES, "no permission", "gs://bucket/data"))
    assert refused.found == "gs://bucket/data: no permission"
    assert refused.advice.startswith("grant this account the permission")
    assert faulty("data", OSError(errno.EACCES, "no permission", "/data")).sentence.startswith("[Errno 13]")


def test_a_process_that_writes_in_the_workdir_is_named_and_a_killed_one_is_not(tmp_path):
    with locked_folder(tmp_path, "--workdir"):
        assert owner_now(tmp_path).startswith("process ")
        assert attempt("owner", lambda: folders._no_owner(tmp_path)).status == "fault"
        lock = (tmp_path / ".lock").read_text()
    assert owner_now(tmp_path) == ""
    (tmp_path / ".lock").write_text(lock.replace('"started": "', '"started": "1'))
    assert owner_now(tmp_path) == ""


def test_a_workdir_of_another_run_is_a_fault_and_stays_as_it_is(tmp_path, config):
    run = tmp_path / "run"
    prepare_workdir(run, config)
    before = tree(run)
    assert by_name(folders.folder_findings(config, str(run)))["run in the workdir"].status == "ok"
    other, _ = small_run(tmp_path / "data", optimizer={"learning_rate": 1e-4})
    finding = by_name(folders.folder_findings(other, str(run)))["run in the workdir"]
    assert finding.status == "fault" and "optimizer.learning_rate" in finding.sentence
    assert tree(run) == before


def test_the_newest_checkpoint_is_named_and_one_beyond_the_last_step_is_a_fault(tmp_path):
    for name in ("3", "10", "12.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert folders._newest(tmp_path, 10) == "step 10 of 10"
    with pytest.raises(UserError, match="10: lies beyond train.steps 6"):
        folders._newest(tmp_path, 6)


@pytest.mark.parametrize(("free", "status"), [(300, "ok"), (299, "warning"), (99, "fault")])
def test_the_disk_needs_room_for_the_kept_checkpoints_and_one_more(tmp_path, config, monkeypatch, free, status):
    monkeypatch.setattr(folders, "free_bytes", lambda path: free)
    assert config.train.keep_checkpoints == 2
    assert folders.disk_finding(config, tmp_path, 100).status == status
