"""``--mode=evaluate`` draws benchmarks' images and scores folders of images, with weights at random."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.cli import evaluate_images
from dualdiff_jax.evaluation.fid import features, score
from dualdiff_jax.evaluation.fid.inception_weights import read_weights
from dualdiff_jax.evaluation.fid.statistics import read_statistics
from dualdiff_jax.evaluation.generation.image_files import ImageFiles
from dualdiff_jax.weights import save_model
from tests.end_to_end.command import refused, run_here
from tests.image_benchmarks import TAGS, write_geneval, write_layouts
from tests.small_run import small_run
from tests.unit.evaluation.fid import narrow
from tests.unit.tiny import random_weights

GENEVAL = [f"{prompt:05d}/samples/{number:04d}.png" for prompt in range(5) for number in range(4)]
FEATURES = 2048 // narrow.DIVISOR


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate_images")
    config, tokenizer = small_run(root / "run")
    save_model(root / "model", config.model, random_weights(config.model), tokenizer)
    write_layouts(root / "data")
    narrow.write(root / "inception.pth")
    return root


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """Models that were loaded stay so; Inception and its batches are small."""
    monkeypatch.setattr(evaluate_images, "load", _load)
    monkeypatch.setattr(evaluate_images, "model_fingerprint", _fingerprint)
    monkeypatch.setattr(features, "ROWS", 4)
    monkeypatch.setattr(score, "read_weights", functools.partial(read_weights, divisor=narrow.DIVISOR))


_load = functools.cache(evaluate_images.load)
_fingerprint = functools.cache(evaluate_images.model_fingerprint)


def flags(root, output, *more, task="geneval", data=None):
    found = ["--mode=evaluate", f"--model={root / 'model'}", f"--data={data or root / 'data'}", f"--output={output}"]
    return [*found, f"--task={task}", "--steps=2", *more]


def evaluated(*words):
    finished = run_here(*words)
    assert finished.returncode == 0, finished.stderr
    return finished


def images(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*.png"))}


def record(output, task="geneval"):
    return json.loads((output / f"{task}.json").read_text())


def test_every_benchmark_is_drawn_in_its_publishers_layout(root, tmp_path):
    said = evaluated(*flags(root, tmp_path), "--task=coco30k", "--task=mjhq30k")
    assert [*images(tmp_path / "geneval")] == GENEVAL
    assert [*images(tmp_path / "coco30k")] == [f"{image:012d}.png" for image in range(40, 45)]
    assert [*images(tmp_path / "mjhq30k")] == [
        *(f"animals/{number:04x}ab.png" for number in (0, 2, 4)),
        *(f"food/{number:04x}ab.png" for number in (1, 3)),
    ]
    lines = (root / "data/geneval/prompts/evaluation_metadata.jsonl").read_text().splitlines()
    for number, line in enumerate(lines):
        assert (tmp_path / f"geneval/{number:05d}/metadata.jsonl").read_text() == line
    listed = [json.loads(line) for line in (tmp_path / "coco30k.images.jsonl").read_text().splitlines()]
    assert [row["image"] for row in listed] == [*images(tmp_path / "coco30k")]
    assert {row["prompt"] for row in listed} == {"a handwritten two"}  # of the smaller id, without the line's end
    assert len({row["seed"] for row in listed}) == 5
    assert len(set(images(tmp_path / "geneval").values())) > 15  # the images of a prompt differ
    found = record(tmp_path)
    assert found["state"] == "finished" and found["images"] == 20 and found["score"] is None
    assert found["settings"]["given"] == {"steps": 2, "negative_prompt": ""}
    assert found["settings"]["model"]["image_sampler"] == "euler"
    assert "has 5 prompts and GenEval 553" in said.stderr
    assert said.stdout.count("score them with") == 3


def test_an_ended_run_goes_on_and_draws_nothing_twice(root, tmp_path, monkeypatch):
    evaluated(*flags(root, tmp_path / "whole"))
    write, written = ImageFiles.write, []

    def noted(self, names, drawn):
        written.append(list(names))
        write(self, names, drawn)

    def end_after_two(self, names, drawn):
        noted(self, names, drawn)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ImageFiles, "write", end_after_two)
    with pytest.raises(KeyboardInterrupt):
        run_here(*flags(root, tmp_path / "ended"))
    assert record(tmp_path / "ended")["state"] == "unfinished"
    (tmp_path / "ended/geneval/00000/samples/.0001.png.partial").write_bytes(b"half")
    (tmp_path / "ended/geneval" / GENEVAL[2]).unlink()
    monkeypatch.setattr(ImageFiles, "write", noted)
    evaluated(*flags(root, tmp_path / "ended"))
    assert images(tmp_path / "ended/geneval") == images(tmp_path / "whole/geneval")  # to the byte
    drawn = [name for names in written for name in names]
    assert sorted(drawn) == sorted([*GENEVAL, GENEVAL[2]])
    count = len(written)
    evaluated(*flags(root, tmp_path / "ended"))
    assert len(written) == count


def test_a_larger_limit_goes_on_from_a_smaller_one(root, tmp_path):
    evaluated(*flags(root, tmp_path, "--limit=2"))
    few = images(tmp_path / "geneval")
    assert len(few) == 8
    evaluated(*flags(root, tmp_path))
    assert len(all_of_them := images(tmp_path / "geneval")) == 20
    assert few.items() <= all_of_them.items()
    assert "has 12 images that are not asked for" in refused(*flags(root, tmp_path, "--limit=2"))


def test_images_of_something_else_are_refused_and_replaced(root, tmp_path):
    evaluated(*flags(root, tmp_path, "--limit=1"))
    before = images(tmp_path / "geneval")
    message = refused(*flags(root, tmp_path, "--limit=1", "--seed=1", "--guidance_scale=2"))
    assert "settings.given.guidance_scale: None -> 2.0" in message and "settings.seed: 0 -> 1" in message
    other = tmp_path / "other"
    write_geneval(other, prompts=4)
    assert "data.fingerprint" in refused(*flags(root, tmp_path, "--limit=1", data=other))
    assert images(tmp_path / "geneval") == before
    evaluated(*flags(root, tmp_path, "--limit=1", "--seed=1", "--overwrite"))
    now = images(tmp_path / "geneval")
    assert now.keys() == before.keys() and all(now[name] != before[name] for name in now)
    (tmp_path / "geneval.json").unlink()
    assert "has files, but no geneval.json beside it" in refused(*flags(root, tmp_path, "--limit=1"))


def test_the_publishers_data_are_not_drawn_over(root, tmp_path, monkeypatch):
    write_layouts(tmp_path / "data")
    before = images(tmp_path / "data"), sorted(tmp_path.rglob("*.json*"))
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_images, "load", None)
        message = refused(*flags(root, tmp_path / "data", "--overwrite", data=tmp_path / "data"))
    assert "data/geneval: holds the task's data, and images would be drawn into it; name another --output" in message
    assert (images(tmp_path / "data"), sorted(tmp_path.rglob("*.json*"))) == before
    write_geneval(tmp_path / "flat")
    for _ in range(2):  # the second time, flat/geneval holds images
        evaluated(*flags(root, tmp_path / "flat", "--limit=1", data=tmp_path / "flat"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--height=7", "--width=8"], "height x width is 7 x 8 pixels, which this model cannot make"),
        (["--guidance_scale=1", "--zero_init_steps=1"], "zero_init_steps is given, but guidance_scale is 1"),
        (["--negative_prompt=a photo", "--guidance_scale=1"], "negative_prompt is given, but there is no guidance"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_weights_are_read(root, tmp_path, words, message, monkeypatch):
    monkeypatch.setattr(evaluate_images, "load", None)
    assert message in refused(*flags(root, tmp_path, *words))


def test_genevals_results_become_its_score(root, tmp_path):
    said = evaluated(*flags(root, tmp_path))
    assert f"--outfile={tmp_path / 'geneval.results.jsonl'}" in said.stdout
    rows = [
        {"filename": f"somewhere/{name}", "tag": TAGS[int(name[:5]) % 3], "correct": int(name[:5]) % 3 == 0}
        for name in GENEVAL
    ]
    (tmp_path / "geneval.results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = evaluated(*flags(root, tmp_path))
    assert "GenEval, 5 prompts, 20 images: 0.333" in said.stdout
    assert record(tmp_path)["parts"] == {"single_object": 1.0, "counting": 0.0, "colors": 0.0}
    (tmp_path / "geneval.results.jsonl").write_text("\n".join(map(json.dumps, rows[:-2])))
    assert "lacks 2 of 20 images, such as 00004/samples/0002.png" in refused(*flags(root, tmp_path))
    said = evaluated(*flags(root, tmp_path, "--overwrite"))  # they were of other images
    assert "score them with" in said.stdout and record(tmp_path)["score"] is None


def scored(root, output, images, reference, *more):
    words = [f"--images={images}", f"--data={reference}", f"--weights={root / 'inception.pth'}", f"--output={output}"]
    return ["--mode=evaluate", "--task=fid", *words, *more]


def write_noise(folder, count, seed, low=0):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(rng.integers(low, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def test_fid_is_zero_between_equal_folders_and_grows_with_the_difference(root, tmp_path):
    write_noise(tmp_path / "a", 6, 0)
    write_noise(tmp_path / "b", 5, 1, low=128)
    said = evaluated(*scored(root, tmp_path / "o", tmp_path / "a", tmp_path / "b"))
    found = record(tmp_path / "o", "fid")
    assert f"FID, 6 images against 5 images, resized as torch-fidelity: {found['score']:.4f}" in said.stdout
    assert "has 6 images; the covariance of 128 features has full rank from 129 on" in said.stderr
    assert "is not the published file" in said.stderr
    assert found["counts"] == {"images": 6, "reference": 5} and found["score"] > 1
    assert len(found["settings"]["weights"]) == 64
    kept = tmp_path / "o/fid.reference.npz"
    assert read_statistics(kept, FEATURES).count == 5
    evaluated(*scored(root, tmp_path / "again", tmp_path / "a", kept))
    assert record(tmp_path / "again", "fid")["score"] == found["score"]
    evaluated(*scored(root, tmp_path / "same", tmp_path / "b", kept))
    assert record(tmp_path / "same", "fid")["score"] == pytest.approx(0, abs=1e-6)
    assert "was made with the resize torch-fidelity, this score with clean-fid" in refused(
        *scored(root, tmp_path / "other", tmp_path / "a", kept, "--resize=clean-fid")
    )
    assert "fid.json: exists" in refused(*scored(root, tmp_path / "o", tmp_path / "a", tmp_path / "b"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--task=fid", "--model=m"], "--task=fid does not use --model; leave it out"),
        (["--task=fid", "--images=i", "--data=d", "--output=o"], "--mode=evaluate needs --weights="),
        (["--task=fid", "--weights=w", "--data=d", "--output=o"], "--mode=evaluate needs --images="),
        (["--task=fid", "--task=geneval"], "--task=fid, geneval: tasks of questions, tasks of prompts and each score"),
        (["--task=vqav2", "--task=geneval"], "tasks of questions, tasks of prompts"),
        (["--task=vqav2", "--sampler=heun", "--resize=clean-fid"], "does not use --resize, --sampler; leave them out"),
        (["--task=geneval", "--length=8", "--split=val"], "--task=geneval does not use --split, --length"),
        (
            ["--task=fid", "--limit=2", "--images=i.npz", "--data=d", "--weights=w", "--output=o"],
            "--task=fid does not use --limit where --images=i.npz is a file of statistics",
        ),
        (["--task=clip-score", "--data=d"], "--task=clip-score does not use --data"),
        (["--task=geneval", "--data=d", "--output=o"], "--mode=evaluate needs --model="),
        (["--task=geneval", "--task=geneval"], "--task=geneval is given more than once"),
        (["--task=geneval", "--model=m", "--data=d", "--output=o", "--seed=1,2"], "an evaluation takes one"),
        (
            ["--task=coco30k", "--model=m", "--data=d", "--output=o", "--images_per_prompt=2"],
            "images_per_prompt is 2; coco30k has one image of each prompt",
        ),
    ],
)
def test_flags_that_do_not_fit_the_task_are_named(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("--mode=evaluate", *words)
    assert not any(tmp_path.iterdir())


def test_missing_files_are_named_before_the_model_is_loaded(root, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_images, "load", None)
    for task, file in (
        ("geneval", "evaluation_metadata.jsonl"),
        ("coco30k", "captions_val2014.json"),
        ("mjhq30k", "meta_data.json"),
    ):
        message = refused(*flags(root, tmp_path / "o", task=task, data=tmp_path))
        assert f"task {task}: {tmp_path / file}: " in message and "; expected " in message
    write_noise(tmp_path / "a", 3, 0)
    missing = scored(tmp_path, tmp_path / "o", tmp_path / "a", tmp_path / "a")
    assert "inception.pth: there is no such file" in refused(*missing)
