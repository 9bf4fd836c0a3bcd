"""A workdir is of one config, and of one file system that all hosts see."""

import dataclasses
import os
import shutil

import jax
import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import lock, locked_folder
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import workdir as module
from dualdiff_jax.training.loop import train
from dualdiff_jax.training.workdir import check_workdir, prepare_workdir
from tests.small_run import small_run


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("data"))[0]


@pytest.fixture
def second_host(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(module, "VISIBLE_AFTER", 0.0)


def test_another_host_writes_nothing_and_finds_what_the_first_has_written(tmp_path, second_host, monkeypatch):
    config, _ = small_run(tmp_path / "data")
    with pytest.raises(UserError, match="does not see the files of the first host there; name a folder of a file"):
        prepare_workdir(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    prepare_workdir(tmp_path / "run", config)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    prepare_workdir(tmp_path / "run", config)
    other, _ = small_run(tmp_path / "data", optimizer={"learning_rate": 1e-4})
    with pytest.raises(UserError, match="belongs to a run with another config"):
        prepare_workdir(tmp_path / "run", other)


def test_a_source_that_is_not_read_may_go(tmp_path):
    """Earlier versions needed one for every stream, so that their workdirs have it in config.json."""
    before, _ = small_run(tmp_path / "data", objective={"image_weight": 0.0})
    prepare_workdir(tmp_path / "run", before)
    after = dataclasses.replace(before, data=dataclasses.replace(before.data, sources=before.read_sources))
    assert len(after.data.sources) < len(before.data.sources)
    prepare_workdir(tmp_path / "run", after)
    fewer = dataclasses.replace(after, data=dataclasses.replace(after.data, sources=after.data.sources[:1]))
    with pytest.raises(UserError, match="data.sources"):
        prepare_workdir(tmp_path / "run", fewer)


@pytest.mark.parametrize("name", ["model", "lora", "metrics.jsonl"])
def test_what_is_of_no_run_is_not_replaced(tmp_path, settings, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("precious")
    if name.endswith("jsonl"):
        shutil.rmtree(tmp_path / name)
        (tmp_path / name).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"holds {name} and no run, and a run would replace it; name another --workdir"):
        train(settings, tmp_path, make_mesh(settings.mesh, jax.devices()[:1]))
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".lock"] == before


def test_a_run_that_starts_from_its_own_model_is_refused(tmp_path, settings):
    config = dataclasses.replace(settings, init_from=str(tmp_path / "model"))
    with pytest.raises(UserError, match="its model/ is init_from, which the run would replace; name another --workdir"):
        check_workdir(tmp_path, config)


def test_a_second_run_in_a_workdir_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "GRACE", 0.1)
    config, _ = small_run(tmp_path / "data")
    with locked_folder(tmp_path / "run", "--workdir"):
        with pytest.raises(UserError, match="run: process .* writes there; wait until it ends"):
            train(config, tmp_path / "run", make_mesh(config.mesh, jax.devices()[:1]))
        assert [file.name for file in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "content, fault",
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no"),
        (b"[]", "expected an object"),
        (b"3", "expected an object"),
        (b"[" * 3000, "is nested more than"),
        (b'{"seed": 1e999}', "1e999"),
        (b'{"seed": 1.5}', "cannot be read as this version's config"),
        (b'{"model": [1]}', "cannot be read as this version's config"),
    ],
)
def test_a_damaged_config_is_one_sentence(tmp_path, settings, content, fault):
    prepare_workdir(tmp_path / "run", settings)
    (tmp_path / "run" / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=fault):
        prepare_workdir(tmp_path / "run", settings)


OWN = (
    "config.json",
    "metrics.jsonl",
    "validation.jsonl",
    "skipped_steps.jsonl",
    "bad_records.jsonl",
    "stall_host_0.txt",
)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", OWN)
def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused_before_anything_waits(tmp_path, settings, make, name):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / name)
    with pytest.raises(UserError, match=f"{name}: is no regular file, and a run writes a file of this name"):
        prepare_workdir(tmp_path / "run", settings)


@pytest.mark.parametrize("name", module.FOLDERS)
def test_a_file_in_place_of_a_folder_is_refused(tmp_path, settings, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch()
    with pytest.raises(UserError, match=f"{name}: is no folder, and a run writes a folder of this name"):
        prepare_workdir(tmp_path / "run", settings)
