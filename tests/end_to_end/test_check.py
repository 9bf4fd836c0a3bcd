"""A check before a run reports all faults at once, costs seconds and leaves nothing."""

import json

import pytest

from tests.end_to_end.command import refusal, refused, run, run_here
from tests.small_run import write_config, write_data


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data")
    return tmp_path


def check(folder, *flags, workdir=None, here=run_here):
    workdir = workdir or folder / "new" / "run"
    return here("--mode=check", f"--config={folder / 'config.py'}", f"--workdir={workdir}", *flags)


def rows_of(finished):
    return {row["what"]: row for row in json.loads(finished.stdout)}


def faults_of(finished):
    refusal(finished)
    return {what for what, row in rows_of(finished).items() if row["status"] == "fault"}


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_a_run_that_can_begin_is_checked_and_nothing_stays(folder):
    before = tree(folder)
    done = check(folder, here=run)
    assert done.returncode == 0, done.stderr
    assert " fault " not in done.stdout and done.stderr == ""
    for name in ("versions", "devices", "mesh", "workdir", "clock of workdir", "disk", "host memory"):
        assert any(line.startswith(f"{name} ") for line in done.stdout.splitlines()), name
    assert "40 records, 8 of 8 tried made in" in done.stdout
    assert tree(folder) == before


def test_a_frozen_network_with_random_weights_is_a_warning(folder):
    assert "frozen weights" not in rows_of(check(folder, "--format=json"))
    row = rows_of(check(folder, "--format=json", "--config.train.trainable=('mmdit.*',)"))["frozen weights"]
    assert (row["status"], row["advice"]) == ("warning", "give --config.init_from=MODEL_DIR")
    assert row["found"] == "t5: random weights that this run does not train"


def test_all_faults_are_listed_at_once(folder):
    (folder / "data" / "questions.json").unlink()
    (folder / "file").touch()
    before = tree(folder)
    done = check(
        folder,
        "--format=json",
        "--config.mesh.tensor=5",
        f"--config.init_from={folder / 'gone'}",
        workdir=folder / "file" / "run",
    )
    assert faults_of(done) == {"workdir", "mesh", "init_from", "data: questions"}
    for part in ("may not be written (Not a directory)", "tensor 5", "gone: is no model folder", "questions.json"):
        assert part in done.stderr, part
    assert tree(folder) == before


def test_a_missing_tokenizer_hides_no_missing_data(folder):
    (folder / "data" / "questions.json").unlink()
    done = check(folder, "--format=json", f"--config.data.tokenizer={folder / 'none'}")
    assert faults_of(done) == {"tokenizer", "data: questions"}
    assert rows_of(done)["data: images"]["status"] == "warning"


def test_a_bad_record_is_a_warning_and_a_damaged_file_is_a_fault(folder):
    file = folder / "data" / "captions.json"
    records = json.loads(file.read_text())
    records[0]["caption"] = records[0]["re_caption"] = 7
    file.write_text(json.dumps(records))
    done = check(folder, "--format=json")
    assert done.returncode == 0
    row = rows_of(done)["data: captions"]
    assert row["status"] == "warning" and "7 of 8 tried" in row["found"] and "captions.json[0]" in row["found"]
    file.write_text("[{")
    assert faults_of(check(folder, "--format=json")) == {"data: images", "data: captions"}


def test_the_workdir_of_another_run_is_a_fault(folder):
    workdir = folder / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    before = tree(folder)
    assert faults_of(check(folder, "--format=json", workdir=workdir)) == {"run in the workdir"}
    assert tree(folder) == before


def test_previews_that_cannot_be_made_are_faults(folder):
    (folder / "text.png").write_text("no image")
    images = (str(folder / "none.png"), str(folder / "text.png"))
    flags = ("--config.preview.every=2", f"--config.preview.images={images}")
    done = check(folder, "--format=json", *flags, f"--config.preview.question={'which digit is this? ' * 9}")
    assert faults_of(done) == {"preview.images", "preview.question"}
    for part in ("none.png: there is no such file", "text.png: is not an image", "leaves no room for an answer"):
        assert part in done.stderr, part


def test_a_run_whose_previews_cannot_be_made_does_not_begin(folder):
    (folder / "text.png").write_text("no image")
    flags = ("--config.preview.every=2", f"--config.preview.images=('{folder / 'text.png'}',)")
    run = ("--mode=train", f"--config={folder / 'config.py'}", f"--workdir={folder / 'run'}")
    assert "text.png: is not an image" in refused(*run, *flags)
    assert not (folder / "run").exists()


def test_a_kernel_that_does_not_run_here_is_a_fault(folder):
    assert rows_of(check(folder, "--format=json"))["attention"]["found"] == "xla"
    assert faults_of(check(folder, "--format=json", "--config.model.attention=splash")) == {"attention"}


def test_a_cache_that_cannot_be_used_is_one_fault(folder):
    flags = ("--config.data.local_cache=gs://bucket/cache",)
    assert faults_of(check(folder, "--format=json", *flags)) == {"data.local_cache"}
