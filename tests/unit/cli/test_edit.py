"""The commands that edit images write what the pipeline draws, and list it."""

import json

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.cli import edit, results, sample
from dualdiff_jax.weights import save_model
from tests.unit.pipeline.shallow import shallow_pipeline

PROMPTS = ["a handwritten three", "a handwritten seven"]
OPTIONS = dict(dtype=None, as_json=True, overwrite=False, steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edit")
    pipe = shallow_pipeline(tmp_path_factory.mktemp("tokenizer"))
    save_model(folder / "model", pipe.config, pipe.weights, pipe.tokenizer)
    for name, array in zip("ab", np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3), np.uint8), strict=True):
        Image.fromarray(array).save(folder / f"{name}.png")
    mask = np.zeros((6, 4), np.uint8)
    mask[:3] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def pipe(folder) -> DualDiffusionPipeline:
    return DualDiffusionPipeline.from_pretrained(folder / "model")


def written(output, capsys) -> tuple[list[dict], list[np.ndarray]]:
    rows = json.loads((output / "images.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == rows
    assert len(list(output.iterdir())) == len(rows) + 1
    return rows, [np.asarray(Image.open(row["image"])) for row in rows]


def test_edit_goes_over_pairs_of_images_and_prompts(folder, pipe, tmp_path, capsys):
    images = [str(folder / "a.png"), str(folder / "b.png")]
    given = dict(strength=0.5, images_per_prompt=2, seed=[3, 4])
    edit.edit(str(folder / "model"), images, str(tmp_path), PROMPTS, **given, **OPTIONS)
    rows, found = written(tmp_path, capsys)
    assert [(row["source"], row["prompt"], row["seed"]) for row in rows] == [
        *[(images[0], PROMPTS[0], 3)] * 2,
        *[(images[1], PROMPTS[1], 4)] * 2,
    ]
    np.testing.assert_array_equal(found, pipe.image_to_image(images, PROMPTS, steps=2, **given))


def test_inpaint_keeps_what_is_not_white(folder, tmp_path, capsys):
    image, mask = str(folder / "a.png"), str(folder / "mask.png")
    edit.inpaint(str(folder / "model"), [image], str(tmp_path), PROMPTS, masks=[mask], strength=None, seed=1, **OPTIONS)
    rows, found = written(tmp_path, capsys)
    assert [row["prompt"] for row in rows] == PROMPTS and {row["source"] for row in rows} == {image}
    for array in found:
        np.testing.assert_array_equal(array[3:], np.asarray(Image.open(image))[3:])
        assert not np.array_equal(array[:3], np.asarray(Image.open(image))[:3])


def test_variations_are_as_many_as_asked_for(folder, pipe, tmp_path, capsys):
    image = str(folder / "a.png")
    edit.variations(str(folder / "model"), [image], str(tmp_path), count=3, strength=None, seed=5, **OPTIONS)
    rows, found = written(tmp_path, capsys)
    assert [(row["source"], row["seed"]) for row in rows] == [(image, 5)] * 3 and "prompt" not in rows[0]
    np.testing.assert_array_equal(found, pipe.variations(image, count=3, seed=5, steps=2))


def test_generate_writes_all_images_of_each_prompt_with_its_seed(folder, pipe, tmp_path, capsys):
    given = dict(images_per_prompt=2, seed=[7, 8], sampler="dpm++2m")
    sample.generate(str(folder / "model"), PROMPTS, str(tmp_path), **given, **OPTIONS)
    rows, found = written(tmp_path, capsys)
    assert [(row["prompt"], row["seed"]) for row in rows] == [*[(PROMPTS[0], 7)] * 2, *[(PROMPTS[1], 8)] * 2]
    np.testing.assert_array_equal(found, pipe.text_to_image(PROMPTS, steps=2, **given))


def test_a_row_says_what_draws_its_image_again(folder, pipe, tmp_path, capsys):
    image, given = str(folder / "a.png"), dict(images_per_prompt=2)
    for number, seed in enumerate((3, [3, 4])):
        sample.generate(str(folder / "model"), PROMPTS, str(tmp_path / f"g{number}"), seed=seed, **given, **OPTIONS)
        rows, found = written(tmp_path / f"g{number}", capsys)
        assert [row["index"] for row in rows] == ([0, 1, 2, 3], [0, 1, 0, 1])[number]
        for row, array in zip(rows, found, strict=True):
            alone = dict(seed=row["seed"], images_per_prompt=row["index"] + 1, steps=2)
            np.testing.assert_array_equal(array, pipe.text_to_image(row["prompt"], **alone)[-1])
    edit.variations(str(folder / "model"), [image] * 2, str(tmp_path / "v"), count=2, strength=None, seed=5, **OPTIONS)
    for row, array in zip(*written(tmp_path / "v", capsys), strict=True):
        alone = pipe.variations(row["source"], count=row["index"] + 1, seed=row["seed"], steps=2)
        np.testing.assert_array_equal(array, alone[-1])


def test_a_smaller_set_takes_the_place_of_a_larger_one(folder, tmp_path, capsys):
    given = OPTIONS | dict(strength=None, seed=5, overwrite=True)
    for count, there in ((3, 3), (1, 1)):
        edit.variations(str(folder / "model"), [str(folder / "a.png")], str(tmp_path), count=count, **given)
        (tmp_path / "notes.png").write_bytes(b"a stranger's")
        images = [f"{number:04d}.png" for number in range(there)]
        assert sorted(file.name for file in tmp_path.iterdir()) == [*images, "images.json", "notes.png"]
    listed = json.loads((tmp_path / "images.json").read_text())
    (tmp_path / "images.json").write_text(json.dumps([*listed, {"image": "notes.png"}, {"image": "sub/0002.png"}]))
    (tmp_path / "0001.png").write_bytes(b"a stranger's")  # no list names it
    edit.variations(str(folder / "model"), [str(folder / "a.png")], str(tmp_path), count=1, **given)
    assert (tmp_path / "0001.png").exists() and (tmp_path / "notes.png").exists()


@pytest.mark.parametrize("listed", [b"", b"[3]", b'{"image": 3}', b'[{"image": 3}]', b"\xff", b"[" * 100_000])
def test_a_list_of_another_kind_removes_nothing(tmp_path, listed):
    (tmp_path / "images.json").write_bytes(listed)
    assert results._listed(tmp_path) == set()


def test_a_row_stays_one_line_of_columns(capsys):
    text = "a\tthree\r\nand\u2028a \\ five\x85"
    results.report_rows([{"image": "0000.png", "prompt": text}], None, False, "{image}\t{prompt}")
    assert capsys.readouterr().out == "0000.png\ta\\tthree\\r\\nand\\u2028a \\ five\\x85\n"
    results.report_rows([{"image": "0000.png", "prompt": text}], None, True, "{image}\t{prompt}")
    assert json.loads(capsys.readouterr().out) == [{"image": "0000.png", "prompt": text}]


def test_unknown_words_of_the_negative_prompt_are_named(folder, tmp_path):
    model, image = str(folder / "model"), str(folder / "a.png")
    given = dict(negative_prompt="a \u4e2d", seed=0, **OPTIONS)
    for call in (
        lambda: sample.generate(model, PROMPTS, str(tmp_path), **given),
        lambda: edit.edit(model, [image], str(tmp_path), PROMPTS, strength=None, **given),
    ):
        with pytest.raises(UserError, match="this model's tokenizer does not know"):
            call()


def test_a_fault_of_masks_is_found_before_the_model_is_loaded(folder, tmp_path):
    image, mask = str(folder / "a.png"), str(folder / "mask.png")
    given = dict(strength=None, seed=0, **OPTIONS)
    for masks, message in (([mask] * 2, "masks has 2 entries for 1 images"), (["no.png"], "no.png.*there is no such")):
        with pytest.raises(UserError, match=message):
            edit.inpaint("no/model", [image], str(tmp_path / "o"), PROMPTS, masks=masks, **given)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (["a", "b"], ["x", "y", "z"], "2 images, but 3 prompts; give one of either, or as many of each"),
        (["a"], [" "], "a prompt is empty"),
        ([], ["x"], "there is no image"),
    ],
)
def test_what_does_not_pair_is_refused_before_the_model_is_loaded(images, prompts, message):
    with pytest.raises(UserError, match=message):
        edit.edit("no/model", images, "o", prompts, strength=None, seed=0, **OPTIONS)
