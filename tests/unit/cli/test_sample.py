"""Where the sampling commands write: beside nothing that is there, into no bucket, and before the model is loaded."""

import os

import pytest

from dualdiff_jax.cli import edit, given_texts, joint, results, sample
from dualdiff_jax.cli.results import results_folder
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import lock

OPTIONS = dict(dtype=None, seed=0, as_json=False)
IMAGE = __file__  # it is there, and no command comes so far as to read it


def commands(output, **options):
    """Each command as a call without arguments; there is no model, so none comes so far as to sample."""
    given = OPTIONS | dict(overwrite=False) | options
    return {
        "0000.png": lambda: sample.generate("no/model", ["a three"], output, **given),
        "captions.json": lambda: sample.caption("no/model", [IMAGE], output, **given),
        "answers.json": lambda: sample.answer("no/model", [IMAGE], ["which?"], output, **given),
        "infills.json": lambda: given_texts.infill("no/model", [IMAGE], ["a _"], output, **given),
        "images.json": lambda: edit.variations("no/model", [IMAGE], output, count=1, strength=None, **given),
        "scores.json": lambda: given_texts.score("no/model", [IMAGE], ["a three"], [], output, **given),
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


def calls(**given):
    """Calls whose arguments do not go together, and what is said about them."""
    given = OPTIONS | dict(overwrite=False) | given
    pairs, output = [IMAGE] * 3, given.pop("output")
    return [
        (lambda: sample.caption("m", ["no.png"], output, **given), "no.png: there is no such file"),
        (lambda: sample.answer("m", [IMAGE], [" "], output, **given), "a question is empty"),
        (lambda: sample.answer("m", pairs, ["a", "b"], output, **given), "3 images, but 2 questions; give one"),
        (lambda: given_texts.infill("m", pairs, ["_", "a _"], output, **given), "3 images, but 2 texts; give one"),
        (lambda: given_texts.infill("m", pairs, ["a"], output, **given), "--text is 'a' and has no blank; put _"),
        (lambda: given_texts.score("m", pairs, ["a"], ["a", "b"], output, **given), "2 questions for 3 images"),
        (lambda: given_texts.infill("m", [IMAGE], ["_"], output, **given | {"seed": [1, 2]}), "--seed has 2 numbers"),
        (lambda: sample.caption("m", pairs, output, **given | {"seed": [1, 2]}), "--seed has 2 numbers"),
        (lambda: sample.generate("m", ["a"], output, sigmas=[0.3, 0.7], **given), "give noise levels .* that fall"),
        (lambda: sample.generate("m", ["a"], output, sigmas=[0.7], steps=3, **given), "sigmas is given beside steps"),
        (lambda: sample.generate("m", ["a"], output, guidance_interval=[0.7, 0.3], **given), "guidance_interval is"),
    ]


@pytest.mark.parametrize("index", range(len(calls(output=None))))
def test_what_does_not_go_together_is_refused_before_the_model_is_read(tmp_path, index):
    call, message = calls(output=str(tmp_path / "out"))[index]
    with pytest.raises(UserError, match=message):
        call()
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_a_sentence(tmp_path):
    with (
        pytest.raises(UserError, match=r"x.png: cannot be written \(.*No space left"),
        results._writing(tmp_path / "x.png"),
    ):
        raise OSError(28, "No space left on device")


def test_a_number_of_images_out_of_proportion_is_refused_before_a_list_of_them_is_made(tmp_path):
    given = OPTIONS | dict(overwrite=False)
    drawn = dict(count=10**12, strength=None)
    for name, call in {
        "images_per_prompt": lambda: sample.generate("m", ["a"], str(tmp_path), images_per_prompt=10**12, **given),
        "count": lambda: edit.variations("m", [IMAGE], str(tmp_path), **drawn, **given),
        "count is": lambda: joint.joint("m", str(tmp_path), "", 10**12, **given),
    }.items():
        with pytest.raises(UserError, match=f"{name}.*1000000000000; give a whole number from 1 to 1048576"):
            call()
