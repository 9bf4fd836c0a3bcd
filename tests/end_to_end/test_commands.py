"""The commands and the pipeline on a model trained for the test: what they write, print and refuse."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.evaluation.previews import Preview
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train
from tests.end_to_end.command import refusal, refused, run, run_here
from tests.small_run import small_run, write_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished small run with previews, and that of its data."""
    root = tmp_path_factory.mktemp("trained")
    pictures = tuple(str(root / "data" / f"images/{index}.png") for index in range(3))
    preview = {
        "every": 3,
        "prompts": ("a handwritten three",) * 2,
        "images": pictures,
        "question": "which digit is this?",
    }
    config, tokenizer = small_run(root / "data", preview=preview)
    hook = Preview(config.preview, config.model, tokenizer, root / "run" / "samples")
    train(config, root / "run", make_mesh(config.mesh, jax.devices()[:1]), [(3, hook)])
    return root / "run", root / "data"


@pytest.fixture(scope="module")
def pipe(trained):
    return DualDiffusionPipeline.from_pretrained(trained[0] / "model")


@pytest.fixture
def model(trained, tmp_path):
    """A copy of the model folder, to damage."""
    return shutil.copytree(trained[0] / "model", tmp_path / "model")


def test_a_run_leaves_metrics_checkpoints_and_previews(trained):
    workdir, _ = trained
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]
    assert {folder.name for folder in (workdir / "checkpoints").iterdir()} == {"3", "6"}
    assert {file.name for file in (workdir / "samples").iterdir()} == {
        f"step_{step:07d}.{end}" for step in (3, 6) for end in ("png", "json")
    }
    texts = json.loads((workdir / "samples" / "step_0000006.json").read_text())["texts"]
    assert len(texts) == 3 and set(texts[0]) == {"image", "caption", "answer"}
    assert not [path for path in workdir.iterdir() if path.name.startswith(".")]


def test_generate_caption_answer_from_the_command_line(trained, tmp_path):
    model, out = f"--model={trained[0] / 'model'}", f"--output={tmp_path / 'out'}"
    prompts = ["--prompt=a handwritten three", "--prompt=the number four written by hand"]
    finished = run("--mode=generate", model, *prompts, out, "--seed=4")
    assert finished.returncode == 0, finished.stderr
    images = [tmp_path / "out" / f"000{index}.png" for index in range(2)]
    assert [Image.open(file).size for file in images] == [(8, 8), (8, 8)]
    assert finished.stdout.splitlines()[0] == f"{images[0]}\ta handwritten three"
    finished = run_here("--mode=caption", model, *(f"--image={file}" for file in images), "--format=json", out)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == json.loads((tmp_path / "out" / "captions.json").read_text())
    finished = run_here(
        "--mode=answer", model, f"--image={images[0]}", "--question=which digit is this?", "--format=json"
    )
    assert [set(row) for row in json.loads(finished.stdout)] == [{"image", "question", "answer", "seed"}]


def test_the_commands_options_reach_the_pipeline(pipe, trained, tmp_path):
    model, out = f"--model={trained[0] / 'model'}", tmp_path / "out"
    options = ["--negative_prompt=a photo", "--guidance_scale=5", "--steps=2", "--height=16", "--seed=3"]
    finished = run_here("--mode=generate", model, "--prompt=a handwritten three", f"--output={out}", *options)
    assert finished.returncode == 0, finished.stderr
    expected = pipe.text_to_image(
        ["a handwritten three"], "a photo", guidance_scale=5.0, steps=2, height=16, seed=3, output="pil"
    )
    np.testing.assert_array_equal(Image.open(out / "0000.png"), expected[0])
    image = str(trained[1] / "images/0.png")
    options = ["--length=5", "--steps=1", "--order=ancestral", "--dtype=bfloat16", "--format=json"]
    finished = run_here("--mode=caption", model, f"--image={image}", *options)
    assert finished.returncode == 0, finished.stderr
    half = DualDiffusionPipeline.from_pretrained(trained[0] / "model", dtype="bfloat16")
    assert (
        json.loads(finished.stdout)[0]["caption"] == half.image_to_text(image, length=5, steps=1, order="ancestral")[0]
    )


def test_samples_are_a_function_of_the_seed_and_not_of_the_neighbours(pipe, trained):
    prompts = ["a handwritten three", "a handwritten five", "a photo of the digit nine"]
    images = [np.asarray(image) for image in pipe.text_to_image(prompts, seed=3)]
    alone = pipe.text_to_image(prompts[:1], seed=3)
    np.testing.assert_allclose(np.asarray(alone[0], int), images[0].astype(int), atol=1)
    again = [np.asarray(image) for image in pipe.text_to_image(prompts, seed=3)]
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))
    assert not np.array_equal(images[0], np.asarray(pipe.text_to_image(prompts[:1], seed=4)[0]))
    files = [trained[1] / f"images/{index}.png" for index in range(6)]
    assert pipe.image_to_text(files, seed=1)[:2] == pipe.image_to_text(files[:2], seed=1)


def test_more_prompts_than_a_batch_keep_their_order(pipe):
    prompts = [f"a handwritten {word}" for word in ("one", "two", "three", "four", "five", "six", "seven")]
    many = pipe.text_to_image(prompts, guidance_scale=1.0)
    assert len(many) == 7
    one = pipe.text_to_image(prompts[:5], guidance_scale=1.0)
    for a, b in zip(many, one, strict=False):
        np.testing.assert_allclose(np.asarray(a, int), np.asarray(b, int), atol=1)


def test_a_prompt_stays_and_is_not_returned(pipe, trained):
    prefix = pipe.tokenizer.tokens("a handwritten")
    sample = pipe.generate_text([trained[1] / "images/0.png"], [np.asarray(prefix)], length=12, steps=4)
    assert tuple(sample.token_ids[0, : len(prefix)]) == prefix
    assert (sample.revealed_in[0, : len(prefix)] == -1).all() and (sample.revealed_in[0, len(prefix) :] >= 0).all()
    text = pipe.image_to_text([trained[1] / "images/0.png"], prompt="a handwritten", steps=4)[0]
    assert text == pipe.tokenizer.decode(sample.token_ids[0, len(prefix) :])


def test_each_network_alone_returns_its_documented_shapes(pipe):
    text = pipe.encode_text(np.ones((2, 12), np.int32))
    latents = pipe.encode_image(np.zeros((2, 8, 16, 3), np.float32))
    out = pipe.denoise(latents, np.array([500.0, 0.0]), text)
    assert latents.shape == (2, 8, 16, 1) and out.velocity.shape == latents.shape
    assert out.logits.shape == (2, 12, pipe.tokenizer.vocab_size)
    assert pipe.decode_latents(latents).shape == (2, 8, 16, 3)
    assert pipe.denoise(None, np.zeros(2), text).velocity is None


def test_a_faulty_command_ends_with_1_and_one_error_before_anything_is_written(trained, tmp_path):
    model, out = f"--model={trained[0] / 'model'}", f"--output={tmp_path / 'out'}"
    write_config(tmp_path / "config.py", trained[1])
    train_flags = ["--mode=train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    cases = [
        (["--mode=generate", model, out, "--prompt=a", "--workdir=w"], "--mode=generate does not use --workdir"),
        (["--mode=generate", model, out, "--prompt=a handwritten elephant"], "does not know 'elephant'"),
        (["--mode=caption", model, f"--image={tmp_path / 'none.png'}"], "none.png: there is no such file"),
        ([*train_flags, "--config.train.stepz=3"], "train.stepz: no such field; did you mean train.steps?"),
        ([*train_flags, "--config.model.mmdit.vocab_size=20"], "tokenizer in"),
    ]
    for flags, message in cases:
        assert message in refused(*flags)
    assert cases[0][1] in refusal(run(*cases[0][0]))
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: (model / "model.json").unlink(), "is no model folder"),
        (lambda model: (model / "model.json").write_text("{}"), "model.json: lacks 'version'"),
        (lambda model: (model / "model.json").write_text("{"), "model.json: is no JSON"),
        (lambda model: shutil.rmtree(model / "weights"), "weights: is missing"),
        (lambda model: shutil.rmtree(model / "tokenizer"), "there is no tokenizer.json"),
        (lambda model: rewrite(model, version=2), "has format version 2, this program reads 1"),
        (lambda model: rewrite(model, width=17), "width 17 is not a multiple of heads 2"),
        (lambda model: rewrite(model, width=32), "weights: does not fit model.json"),
        (lambda model: truncate(model / "weights"), "cannot be read"),
    ],
)
def test_a_damaged_model_folder_is_named_with_its_damage(model, damage, message):
    damage(model)
    with pytest.raises(UserError, match=message) as error:
        DualDiffusionPipeline.from_pretrained(model)
    assert str(model) in str(error.value)


def rewrite(model, *, version=None, width=None) -> None:
    file = model / "model.json"
    description = json.loads(file.read_text())
    if version:
        description["version"] = version
    if width:
        description["config"]["mmdit"]["width"] = width
    file.write_text(json.dumps(description))


def truncate(folder) -> None:
    """Cuts the largest file of the arrays to half its size."""
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_what_a_terminal_cannot_show_is_escaped(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    folder = tmp_path / "fotos-ü"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    done = run("--mode=list-images", f"--images={folder}", "--text=x")
    assert done.returncode == 0 and "fotos-\\xfc" in done.stdout and done.stderr == ""
    done = run("--mode=list-images", f"--images={folder}", "--text=x")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "fotos-\\xfc" in done.stderr
