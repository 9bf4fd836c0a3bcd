"""What the page computes, without Gradio: results, the calls that make them again, files, sentences."""

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax import UserError
from dualdiff_jax.app import faults, given, markup, studio, uploads
from dualdiff_jax.app.calls import Call
from dualdiff_jax.app.drawing import draw
from dualdiff_jax.app.editing import PAINTED, WHOLE, edit
from dualdiff_jax.app.filling import fill
from dualdiff_jax.app.pairing import pair
from dualdiff_jax.app.ranking import rank
from dualdiff_jax.app.reading import read, revealed
from dualdiff_jax.app.studio import Studio
from tests.unit.pipeline.shallow import shallow_pipeline

ROOT = Path(__file__).parents[3]
PROMPT = "a handwritten three"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return shallow_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def room(pipe, tmp_path) -> Studio:
    return Studio(pipe, "runs/model", {"dtype": "float32"}, "dualdiff", tmp_path, itertools.count())


@pytest.fixture
def picture(room) -> str:
    file = room.new_folder() / uploads.PICTURE
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)).save(file)
    return str(file)


def again(room: Studio, result, folder: str) -> object:
    """What the result's own script finds, where the model is the one that is loaded."""
    begin = result.python.index("found = ")
    calls = result.python[begin : result.python.index("\n)", begin) + 2]
    for name in (uploads.PICTURE, uploads.MASK):
        calls = calls.replace(f"'{name}'", repr(str(Path(folder) / name)))
    names = {"pipe": room.pipe}
    exec(calls, names)
    return names["found"]


def test_pictures_form_and_the_last_ones_are_those_of_the_call(room):
    results = list(draw(room, PROMPT, "a handwritten six", 4, 4, 3, 2.0, "euler", 7, 2))
    assert [len(each.images) for each in results] == [2, 2, 2, 2]
    assert "step 1 of 3" in results[0].html
    files = [np.asarray(Image.open(file)) for file in results[-1].files]
    for ours, theirs in zip(files, again(room, results[-1], "."), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs))
    assert not np.array_equal(*files)


def test_a_file_holds_its_settings(room):
    *_, last = draw(room, PROMPT, "", None, None, 2, None, None, 3, 1)
    settings = json.loads(Image.open(last.files[0]).text["dualdiff"])
    assert settings["prompts"] == [PROMPT] and settings["seed"] == 3 and settings["command"] == last.command
    assert "height" not in settings and "negative_prompt" not in settings


@pytest.mark.parametrize("question", ["", "which digit is this?"])
@pytest.mark.parametrize("order", [None, "ancestral", "threshold"])
def test_what_is_read_is_what_the_call_gives(room, picture, question, order):
    *_, last = read(room, picture, question, order, None if order == "threshold" else 3, 12, 5)
    (text,) = again(room, last, str(Path(last.files[-1]).parent))
    assert Image.open(last.files[-1]).text.get("dualdiff result", "") == text
    np.testing.assert_array_equal(np.asarray(Image.open(last.files[-1])), np.asarray(Image.open(picture)))


def test_a_token_has_the_probability_that_the_model_gave_it_when_it_was_revealed(room, picture):
    options = {"order": "confidence", "steps": 3, "length": 7, "seed": 1}
    parts = list(revealed(room.pipe, picture, np.zeros(0, np.int32), options))
    last, mask = parts[-1], room.pipe.tokenizer.mask_token_id
    pixels = room.pipe.encode_image(np.asarray(Image.open(picture), np.float32)[None] / 127.5 - 1)
    for place in np.flatnonzero(last.revealed_in >= 0):
        seen = np.where(last.revealed_in < last.revealed_in[place], last.token_ids, mask)[None]
        expected = np.exp(np.asarray(room.pipe.subs_log_probs(pixels, seen)))[0, place, last.token_ids[place]]
        assert last.probability[place] == pytest.approx(expected, rel=1e-4)
    assert (last.token_ids != mask).all() and last.is_finished
    assert any((part.token_ids == mask).any() for part in parts)


def painted(mask: np.ndarray, folder: Path) -> dict[str, str]:
    Image.fromarray(mask).save(folder / "painted.png")
    return {"mask": uploads.as_data_url(folder / "painted.png")}


def test_what_is_transparent_in_a_painted_mask_stays(tmp_path):
    mask = np.full((4, 6, 4), 255, np.uint8)
    mask[:2, :, 3] = 0
    found = np.asarray(uploads.receive_mask(painted(mask, tmp_path), (6, 4)))
    assert not found[:2].any() and found[2:].all()


@pytest.mark.parametrize("part", [WHOLE, PAINTED])
def test_an_edit_is_that_of_its_call(room, picture, tmp_path, part):
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3, 2:] = 255
    fields = (part, PROMPT, "", 0.8, 4, 4, 4, 2.0, "euler", 3, 2)
    *_, last = edit(room, picture, painted(mask, tmp_path), *fields)
    folder = Path(last.files[0]).parent
    for number, theirs in enumerate(again(room, last, str(folder))):
        ours = np.asarray(Image.open(folder / f"{number:04d}.png"))
        np.testing.assert_array_equal(ours, np.asarray(theirs))
        if part == PAINTED:
            np.testing.assert_array_equal(ours[mask == 0], np.asarray(Image.open(picture))[mask == 0])


def test_fills_ranks_and_pairs_are_those_of_their_calls(room, picture):
    *_, filled = fill(room, picture, "a photo of the digit _", 1, None, None, 2)
    (text,) = again(room, filled, str(Path(filled.files[0]).parent))
    assert Image.open(filled.files[0]).text["dualdiff result"] == text and "<mark>" in filled.html
    *_, ranked = rank(room, picture, f"{PROMPT}\n\na handwritten six", "", True, 4, 2)
    nats = again(room, ranked, str(Path(ranked.files[0]).parent)).nats[0]
    assert [f"{number:.2f} ±" in ranked.html for number in nats] == [True, True]
    *_, both = pair(room, "", 2, 4, 4, 3, 2.0, 1.0, 2)
    for file, theirs in zip(both.files, again(room, both, "."), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(theirs.image))
        assert markup.escaped(theirs.text) in both.html


def test_a_command_survives_the_shell(room):
    odd = 'it\'s "a" $HOME `three`\n; rm -rf & \\ -- <b>'
    call = Call("score", {"images": ["image.png"], "texts": [odd, "b"], "per_token": False, "samples": None})
    words = shlex.split(call.command(room))
    assert words[0] == "dualdiff" and f"--text={odd}" in words and "--text=b" in words and "--noper_token" in words
    assert not any("samples" in word for word in words) and "--dtype=float32" in words
    compile(call.python(room), "script", "exec")
    assert repr(odd) in call.python(room)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: given.text("prompt", " "), "the prompt is empty"),
        (lambda: given.text("prompt", "a" * 2001), "has 2001 characters, and may have 2000"),
        (lambda: given.text("prompt", 3), "prompt is 3; give a text"),
        (lambda: given.lines("texts", "\n \n"), "there are 0 lines of texts"),
        (lambda: given.lines("texts", None), "there is no texts; write one on each line"),
        (lambda: given.whole("steps", 2.5), "steps is 2.5; give a whole number"),
        (lambda: given.whole("pictures", 17, most=16), "pictures is 17; give a whole number from 1 to 16"),
        (lambda: given.number("guidance", float("nan")), "guidance is nan; give a finite number"),
        (lambda: given.picture(None), "there is no picture"),
        (lambda: given.picture("/no/such"), "the picture is gone from the server"),
    ],
)
def test_what_a_field_may_not_hold_is_a_sentence(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_an_upload_is_written_anew_upright_bounded_and_bare(room, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "where I live"
    Image.new("RGB", (6000, 300), "red").save(tmp_path / "a.jpg", exif=exif)
    file = uploads.receive(room, tmp_path / "a.jpg")
    image = Image.open(file)
    assert image.size == (102, uploads.LONGEST) and image.mode == "RGB" and not image.getexif()
    assert b"where I live" not in file.read_bytes() and file.parent.parent == room.folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"nothing", "is not an image"),
        (None, "has more than 20 MiB"),
        ("wide", "too large to decode"),
    ],
)
def test_an_upload_that_cannot_be_read_is_a_sentence(room, tmp_path, content, message):
    file = tmp_path / "upload"
    if content == "wide":
        Image.new("1", (5000, 5000)).save(file, "PNG")
    else:
        file.write_bytes(bytes(uploads.MOST_BYTES + 1) if content is None else content)
    with pytest.raises(UserError, match=message) as error:
        uploads.receive(room, file)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("size", [(5, 4), (4, 4)])
def test_a_mask_that_cannot_be_used_is_a_sentence(tmp_path, size):
    empty = painted(np.zeros(size[::-1], np.uint8), tmp_path)
    expected = "nothing is painted" if size == (4, 4) else "the mask has"
    for mask, message in ((empty, expected), (None, "nothing is painted"), ({"mask": "data:x"}, "no PNG of the brush")):
        with pytest.raises(UserError, match=message):
            uploads.receive_mask(mask, (4, 4))


def test_the_oldest_folders_go(room, monkeypatch):
    monkeypatch.setattr(studio, "KEPT", 3)
    made = [room.new_folder() for _ in range(5)]
    assert [folder.is_dir() for folder in made] == [False, False, True, True, True]


def test_no_text_becomes_markup():
    shown = markup.element("p", "<script>${alert(1)}{{x}}`</script>", "a", title='"><img>')
    inside = "&lt;script&gt;&#36;&#123;alert(1)}&#123;&#123;x}}&#96;&lt;/script&gt;"
    assert shown == f'<p class="a" title="&quot;&gt;&lt;img&gt;">{inside}</p>'


def test_a_fault_is_a_sentence_and_the_log_has_the_rest(caplog):
    def work(kind):
        yield (1,)
        raise kind

    run = faults.in_sentences(work, ("same",))
    assert list(run(UserError("the <b> is wrong; mend it"))) == [
        ("", 1),
        ('<p class="fault" role="alert" data-number="0">The &lt;b&gt; is wrong; mend it.</p>', "same"),
    ]
    assert list(run(KeyError("secret")))[1] == (markup.alert(faults.UNEXPECTED, 1), "same")
    assert "secret" in caplog.text


def test_the_page_without_gradio_says_what_to_install(tmp_path):
    (tmp_path / "gradio.py").write_text("raise ImportError('no gradio here')")
    command = [sys.executable, str(ROOT / "main.py"), "--mode=app", "--model=m"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: the page needs Gradio" in done.stderr and "pip install -r requirements-app.txt" in done.stderr


def test_an_empty_number_is_the_models_own_however_a_browser_sends_it():
    assert [given.whole("steps", value) for value in (None, 0, 0.0, 3.0)] == [None, None, None, 3]
    assert given.whole("seed", 0, least=0) == 0
