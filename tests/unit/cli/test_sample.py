"""Where the sampling commands write: beside nothing that is there, into no bucket, and before the model is loaded."""

import os

import pytest

from dualdiff_jax.cli import edit, given_texts, joint, sample
from dualdiff_jax.cli.sample import results_folder
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import lock

OPTIONS = dict(dtype=None, seed=0, as_json=False)


def commands(output, **options):
    """Each command as a call without arguments; there is no model, so none comes so far as to sample."""
    given = OPTIONS | dict(overwrite=False) | options
    return {
        "0000.png": lambda: sample.generate("no/model", ["a three"], output, **given),
        "captions.json": lambda: sample.caption("no/model", ["a.png"], output, **given),
        "answers.json": lambda: sample.answer("no/model", ["a.png"], ["which?"], output, **given),
        "infills.json": lambda: given_texts.infill("no/model", ["a.png"], ["a _"], output, **given),
        "images.json": lambda: edit.variations("no/model", ["a.png"], output, count=1, strength=None, **given),
        "scores.json": lambda: given_texts.score("no/model", ["a.png"], ["a three"], [], output, **given),
    }


@pytest.mark.parametrize("name", commands("o"))
def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path, name):
    (tmp_path / name).write_bytes(b"a stranger's")
    with pytest.raises(UserError, match=f"{name}: exists; name another --output, or give --overwrite"):
        commands(str(tmp_path))[name]()
    with pytest.raises(UserError, match="no/model"):
        commands(str(tmp_path), overwrite=True)[name]()
    assert (tmp_path / name).read_bytes() == b"a stranger's"


@pytest.mark.parametrize("name", commands("o"))
@pytest.mark.parametrize("overwrite", [False, True])
def test_one_command_at_a_time_writes_into_a_folder(tmp_path, name, overwrite, monkeypatch):
    monkeypatch.setattr(lock, "GRACE", 0.0)
    told = f"process {os.getpid()} on .* writes there; wait until it ends, or name"
    with results_folder(str(tmp_path), ["other.json"], overwrite=False), pytest.raises(UserError, match=told):
        commands(str(tmp_path), overwrite=overwrite)[name]()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", commands("o"))
def test_a_url_of_no_known_scheme_never_becomes_a_folder(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match="hdfs://bucket/out.: such an address is not known; name a local path or gs://BUCKET"
    ):
        commands("hdfs://bucket/out")[name]()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("0000.png", {"steps": 2**31}, "steps: 2147483648 is above 10000"),
        ("0000.png", {"guidance_scale": float("nan")}, "guidance_scale: is not a number"),
        ("captions.json", {"length": 100_000}, "length: 100000 is above 8192"),
        ("answers.json", {"steps": 2**31}, "steps: 2147483648 is above 10000"),
    ],
)
def test_a_setting_out_of_proportion_is_refused_before_the_model_is_read(tmp_path, name, option, message):
    with pytest.raises(UserError, match=message):
        commands(str(tmp_path / "out"), **option)[name]()
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_a_sentence(tmp_path):
    with (
        pytest.raises(UserError, match=r"x.png: cannot be written \(.*No space left"),
        sample._writing(tmp_path / "x.png"),
    ):
        raise OSError(28, "No space left on device")


def test_a_number_of_images_out_of_proportion_is_refused_before_a_list_of_them_is_made(tmp_path):
    given = OPTIONS | dict(overwrite=False)
    drawn = dict(count=10**12, strength=None)
    for name, call in {
        "images_per_prompt": lambda: sample.generate("m", ["a"], str(tmp_path), images_per_prompt=10**12, **given),
        "count": lambda: edit.variations("m", ["a.png"], str(tmp_path), **drawn, **given),
        "count is": lambda: joint.joint("m", str(tmp_path), "", 10**12, **given),
    }.items():
        with pytest.raises(UserError, match=f"{name}.*1000000000000; give a whole number from 1 to 1048576"):
            call()
