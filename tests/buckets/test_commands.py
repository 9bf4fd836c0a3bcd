"""The sampling commands with a model, images and results in a bucket: what a disk gives, or one sentence."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.files import as_path
from dualdiff_jax.files.bucket_path import file_system
from dualdiff_jax.readiness import folders
from dualdiff_jax.weights import save_model
from tests.end_to_end.command import ROOT, refused, run_here
from tests.unit.convert import loras
from tests.unit.pipeline.shallow import shallow_pipeline

PROMPT = "--prompt=a handwritten three"


@pytest.fixture(scope="module")
def folder(bucket) -> Path:
    return as_path(f"{bucket.root}/commands")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> DualDiffusionPipeline:
    return shallow_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(pipe, folder) -> str:
    save_model(str(folder / "model"), pipe.config, pipe.weights, pipe.tokenizer)
    return f"--model={folder / 'model'}"


@pytest.fixture(scope="module")
def image(folder, tmp_path_factory) -> tuple[Path, Path]:
    """A picture on a disk and in the bucket."""
    local = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)).save(local)
    (folder / "a.png").write_bytes(local.read_bytes())
    return local, folder / "a.png"


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch, bucket):
    """A name of a bucket that is taken for a local one makes a folder ``gs:`` here."""
    monkeypatch.chdir(tmp_path)
    yield
    bucket.fail()
    assert not list(tmp_path.glob("gs:*"))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_images_are_written_to_a_bucket_as_to_a_disk(model, folder):
    flags = ["--mode=generate", model, PROMPT, "--images_per_prompt=2", "--steps=1"]
    for output in ("local", str(folder / "drawn")):
        done = run_here(*flags, f"--output={output}")
        assert done.returncode == 0, done.stderr
    assert names(folder / "drawn") == ["0000.png", "0001.png", "images.json"]
    for name in ("0000.png", "0001.png"):
        assert (folder / "drawn" / name).read_bytes() == Path("local", name).read_bytes()
    listed = json.loads((folder / "drawn" / "images.json").read_text())
    assert [row["image"] for row in listed] == [str(folder / "drawn" / name) for name in ("0000.png", "0001.png")]
    assert done.stdout.splitlines()[0].startswith(f"{folder}/drawn/0000.png\t")
    assert f"{folder}/drawn/0000.png: exists; name another --output" in refused(*flags, f"--output={folder / 'drawn'}")
    assert run_here(*flags, f"--output={folder / 'drawn'}", "--overwrite").returncode == 0


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--mode=caption", "--steps=1", "--length=8"], marks=pytest.mark.slow),
        ["--mode=answer", "--question=which digit?", "--steps=1", "--length=12"],
        pytest.param(["--mode=infill", "--text=a handwritten _", "--steps=1", "--length=8"], marks=pytest.mark.slow),
        pytest.param(
            ["--mode=score", "--text=a handwritten three", "--samples=4", "--length=8"], marks=pytest.mark.slow
        ),
    ],
    ids=lambda flags: flags[0],
)
def test_texts_about_an_image_of_a_bucket_are_those_of_a_local_one(model, image, folder, flags):
    local, there = image
    output = folder / flags[0][7:]
    rows = []
    for file, place in ((local, "local"), (there, str(output))):
        done = run_here(*flags, model, f"--image={file}", f"--output={place}", "--format=json")
        assert done.returncode == 0, done.stderr
        rows.append(json.loads(done.stdout))
    (name,) = names(output)
    assert json.loads((output / name).read_text()) == rows[1] and rows[1][0]["image"] == str(there)
    assert [row | {"image": ""} for row in rows[0]] == [row | {"image": ""} for row in rows[1]]


def test_an_image_of_a_bucket_is_one_read(pipe, image, bucket):
    before = bucket.requests()
    found = pipe.image_to_text(str(image[1]), steps=1, length=8)
    after = bucket.requests()
    assert found == pipe.image_to_text(image[0], steps=1, length=8)
    assert after["GET data"] - before["GET data"] == 1


def test_images_and_masks_of_a_bucket_are_edited(model, image, folder):
    mask = folder / "mask.png"
    with mask.open("wb") as file:
        Image.fromarray(np.full((12, 10), 255, np.uint8)).save(file, "PNG")
    flags = ["--mode=inpaint", model, PROMPT, f"--image={image[1]}", f"--mask={mask}", "--steps=1"]
    done = run_here(*flags, f"--output={folder / 'inpainted'}")
    assert done.returncode == 0, done.stderr
    assert names(folder / "inpainted") == ["0000.png", "images.json"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model=gs://bucket/none", "--output=out"], "gs://bucket/none: is no model folder"),
        (["--model=gs://no-such-bucket/m", "--output=out"], "gs://no-such-bucket/m: is no model folder"),
        (["--model=gs:///m", "--output=out"], "has no valid bucket's name"),
        (["--model=hdfs://host/m", "--output=out"], "such an address is not known"),
        (["--model=m", "--output=gs:/bucket/out"], "such an address is not known"),
        (["--model=m", "--output=ftp://bucket/out"], "such an address is not known"),
        (["--model=m", "--output=gs://no-such-bucket/out"], "gs://no-such-bucket/out: there is no such bucket"),
        (["--model=m", "--output=gs:bucket/out"], "such an address is not known"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_sentence(bucket, flags, sentence):
    assert re.search(sentence, refused("--mode=generate", PROMPT, *flags))


def test_a_check_has_the_sentences_of_a_run(bucket):
    (missing,) = folders._writable("workdir", "gs://no-such-bucket/run", "--workdir")
    assert missing.sentence == "gs://no-such-bucket/run: there is no such bucket; make it, or choose another --workdir"
    bucket.fail(refused=True)
    (denied,) = folders._writable("workdir", f"{bucket.root}/run", "--workdir")
    bucket.fail()
    assert denied.found.startswith(f"{bucket.root}/run: may not be written (no permission")
    assert (denied.status, denied.advice) == ("fault", "choose another --workdir")


def test_an_image_that_is_not_there_is_one_sentence(model):
    flags = ["--mode=caption", model, "--steps=1", "--length=8"]
    for name in ("gs://bucket/none.png", "gs://no-such-bucket/none.png"):
        assert f"{name}: there is no such file" in refused(*flags, f"--image={name}")
    assert "such an address is not known" in refused(*flags, "--image=ftp://bucket/none.png")


def test_a_bucket_that_refuses_is_one_sentence_and_keeps_what_it_has(model, folder, bucket):
    (folder / "kept" / "0000.png").write_bytes(b"old")
    bucket.fail(refused=True)
    found = refused("--mode=generate", model, PROMPT, "--steps=1", f"--output={folder / 'kept'}", "--overwrite")
    bucket.fail()
    assert f"{folder}/kept: may not be written (no permission" in found and "choose another --output" in found
    assert names(folder / "kept") == ["0000.png"] and (folder / "kept" / "0000.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    "flags",
    [
        ["--mode=generate", PROMPT, "--model=gs://bucket/m", "--output=out"],
        [
            *("--mode=train", "--config=configs/demo.py", "--config.data.tokenizer=TOKENIZER"),
            *("--config.preview.every=0", "--workdir=gs://bucket/w"),
        ],
        ["--mode=list-images", "--images=gs://bucket/photos", "--text=a photo"],
        ["--mode=compare", "gs://bucket/a", "gs://bucket/b"],
        ["--mode=evaluate", "--model=gs://bucket/m", "--task=vqav2", "--data=gs://bucket/d", "--output=out"],
    ],
    ids=lambda flags: flags[0],
)
def test_a_bucket_that_may_not_be_read_is_one_sentence(flags, pipe, bucket):
    places = {"configs/": f"{ROOT}/configs/", "TOKENIZER": str(pipe.tokenizer.folder)}
    for name, place in places.items():
        flags = [flag.replace(name, place) for flag in flags]
    bucket.fail(denied=True)
    found = refused(*flags)
    bucket.fail()
    assert "gs://bucket/" in found and "no permission or no credentials" in found
    assert "log in with gcloud auth application-default login" in found or "--data" in "".join(flags)


def test_a_lora_of_pefts_form_is_written_there(folder, tmp_path):
    """The same bytes as on a disk."""
    for place in (tmp_path / "peft", folder / "peft"):
        loras.write(place, loras.draw()[:2], "peft")
    assert names(folder / "peft") == names(tmp_path / "peft") == ["adapter_config.json", "adapter_model.safetensors"]
    for name in names(tmp_path / "peft"):
        assert (folder / "peft" / name).read_bytes() == (tmp_path / "peft" / name).read_bytes()


def test_a_missing_package_is_one_sentence(bucket, monkeypatch):
    file_system.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    try:
        found = refused("--mode=generate", PROMPT, "--model=gs://bucket/m", "--output=out")
    finally:
        file_system.cache_clear()
    assert "gs:// needs the package gcsfs; pip install gcsfs" in found


def test_a_python_call_on_a_bucket_that_refuses_is_the_sentence_of_a_command(pipe, model, folder, bucket):
    path = model.removeprefix("--model=")
    calls = [
        lambda: DualDiffusionPipeline.from_pretrained(path),
        lambda: pipe.load_lora(f"{folder}/lora.safetensors"),
    ]
    bucket.fail(denied=True)
    for call in calls:
        with pytest.raises(UserError, match=f"{folder}/.*: no permission or no credentials.*; grant this account"):
            call()
    bucket.fail()
    with pytest.raises(UserError, match="gs://no-such-bucket/model"):
        DualDiffusionPipeline.from_pretrained("gs://no-such-bucket/model")
