"""Every tab in a real browser, with the calls that it shows made again; a bad upload, two visitors, widths."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.app.conftest import ROOT, SCREENSHOTS, Visit, start, stop, temporary

pytestmark = pytest.mark.app
PROMPT = "a handwritten three"
WATCH = """window.seen = [];
const shown = document.querySelector("#draw-text");
new MutationObserver(() => seen.push(shown.innerText.trim())).observe(shown, {childList: true, subtree: true});"""
STEPS = "600"  # so many that the browser shows some of the states on the way, however busy it is
FIRST_PICTURE = 10.0  # seconds, with the demo's model


@pytest.fixture(scope="module")
def digit(tmp_path_factory) -> Path:
    """A picture of 40 x 30 pixels."""
    file = tmp_path_factory.mktemp("upload") / "digit.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 40, 3), np.uint8)).save(file)
    return file


def made_again(
    visit: Visit, name: str, folder: Path, expected: dict[str, bytes], shown: str | float | None = None
) -> None:
    """Runs the command and the script that the files of a result hold; both give the same pictures, or print ``shown``.

    ``expected`` are the pixels of the result's pictures by name.
    """
    files = visit.downloads(name, folder)
    with Image.open(files[0]) as image:
        settings = json.loads(image.text["dualdiff"])
    assert settings["python"].splitlines()[0] in visit.text(f"#{name}-python")
    program = "python main.py"
    assert settings["command"].startswith(program)
    line = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'main.py'))}" + settings["command"][len(program) :]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in (["bash", "-c", line], [sys.executable, "-c", settings["python"]])
    ]
    for process in both:
        printed, faults = process.communicate()
        assert process.returncode == 0, faults
        assert shown is None or is_in(printed, shown)
    for each, pixels in expected.items():
        assert pixels_of(folder / "out" / each) == pixels, f"the command draws another {each}"
        (folder / each).rename(folder / f"again_{each}")
        assert pixels_of(folder / f"again_{each}") == pixels, f"the script draws another {each}"


def is_in(printed: str, shown: str | float) -> bool:
    """Whether a text was printed, or a number that the page rounds to two decimals."""
    if isinstance(shown, str):
        return shown in printed
    return any(abs(float(number) - shown) < 0.0051 for number in re.findall(r"-?\d+\.\d+", printed))


def pixels_of(file: Path) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


def drawn(visit: Visit, name: str, folder: Path) -> dict[str, bytes]:
    return {file.name: pixels_of(file) for file in visit.downloads(name, folder) if file.name[0].isdigit()}


def test_the_first_picture_comes_soon_and_is_shown_whole(server, visit, tmp_path):
    visit.field("Prompt").fill(PROMPT)
    begun = time.monotonic()
    visit.page.locator("#draw-run").click()
    visit.page.locator("#draw-pictures img").first.wait_for()
    seconds = time.monotonic() - begun
    visit.page.locator("#draw-files a").first.wait_for()
    picture, gallery = (visit.page.locator(f"#draw-pictures{each}").bounding_box() for each in (" img", ""))
    assert picture and gallery and picture["y"] + picture["height"] <= gallery["y"] + gallery["height"]
    visit.screenshot("draw")
    waits = {"page_seconds": server.seconds, "first_picture_seconds": seconds}
    record = {"model": str(server.model)} | {name: round(value, 2) for name, value in waits.items()}
    (SCREENSHOTS / "seconds.json").write_text(json.dumps(record) + "\n")
    assert seconds <= FIRST_PICTURE or not server.is_demo
    made_again(visit, "draw", tmp_path / "again", drawn(visit, "draw", tmp_path / "first"))
    assert visit.faults == []


def test_several_pictures_at_once_form_and_have_the_settings_of_the_fields(visit, tmp_path):
    visit.page.get_by_label("number input for Pictures at once").locator("visible=true").fill("3")
    visit.field("Prompt").fill(PROMPT)
    visit.field("Negative prompt").fill("a handwritten six")
    visit.open_settings()
    visit.field("Steps").fill(STEPS)
    visit.field("Seed").fill("17")
    visit.page.evaluate(WATCH)
    visit.run("draw")
    visit.screenshot("draw_several")
    assert [text for text in visit.page.evaluate("seen") if text.startswith("step ")], "no picture was shown on the way"
    expected = drawn(visit, "draw", tmp_path / "first")
    assert len(expected) == 3 and len(set(expected.values())) == 3
    for setting in ("--seed=17", f"--steps={STEPS}", "--images_per_prompt=3", "a handwritten six"):
        assert setting in visit.text("#draw-command")
    made_again(visit, "draw", tmp_path / "again", expected)
    assert visit.faults == []


@pytest.mark.parametrize("question", ["", "which digit is this?"])
def test_a_picture_is_read_token_by_token(visit, digit, tmp_path, question):
    visit.tab("Read")
    visit.upload("read", digit)
    visit.page.locator("#read-picture img").wait_for()
    visit.field("Question").fill(question)
    visit.open_settings()
    for name in ("Steps", "Tokens"):
        field = visit.field(f"{name} (0: the model's own)")
        assert field.input_value() == "0"
        field.fill("")  # is the model's own too
    visit.field("Seed").fill("5")
    visit.run("read")
    visit.screenshot("read_answer" if question else "read_caption")
    (file, *_) = visit.downloads("read", tmp_path / "first")
    with Image.open(file) as image:
        text = image.text.get("dualdiff result", "")
    tokens = visit.page.locator("#read-text .tokens .token:not(.special)").all_inner_texts()
    assert " ".join("".join(tokens).split()) == " ".join(text.split())
    titles = visit.page.locator("#read-text .tokens .token").evaluate_all("all => all.map(each => each.title)")
    assert titles and all(title.startswith("pass ") and "probability 0" in title or "1.00" in title for title in titles)
    made_again(visit, "read", tmp_path / "again", {}, text)
    assert visit.faults == []


def latest_drawing(visit: Visit, name: str) -> None:
    """Draws, goes to the tab and takes the drawing."""
    visit.field("Prompt").fill(PROMPT)
    visit.run("draw")
    visit.tab(name.capitalize())
    visit.page.locator(f"#{name}-take").click()
    visit.page.locator(f"#{name}-picture img").wait_for()


def test_a_drawing_is_edited(visit, tmp_path):
    latest_drawing(visit, "edit")
    visit.field("Prompt").fill("a handwritten eight")
    visit.run("edit")
    visit.screenshot("edit")
    made_again(visit, "edit", tmp_path / "again", drawn(visit, "edit", tmp_path / "first"))
    assert visit.faults == []


def test_a_brush_paints_what_is_drawn_anew(visit, tmp_path):
    latest_drawing(visit, "edit")
    visit.page.get_by_label("the painted part").check()
    canvas = visit.page.locator("#edit-brush canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    left, middle = box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"]
    visit.page.mouse.move(left, middle)
    visit.page.mouse.down()
    visit.page.mouse.move(left + 0.3 * box["width"], middle, steps=5)
    visit.page.mouse.up()
    visit.field("Prompt").fill("a handwritten eight")
    visit.run("edit")
    visit.screenshot("edit_brush")
    expected = drawn(visit, "edit", tmp_path / "first")
    before, after = (np.asarray(Image.open(tmp_path / "first" / each)) for each in ("image.png", "0000.png"))
    is_painted = np.asarray(Image.open(tmp_path / "first" / "mask.png")) > 0
    assert 0 < is_painted.sum() < is_painted.size
    np.testing.assert_array_equal(before[~is_painted], after[~is_painted])
    made_again(visit, "edit", tmp_path / "again", expected)
    assert visit.faults == []


def test_blanks_are_filled(visit, digit, tmp_path):
    visit.tab("Fill")
    visit.upload("fill", digit)
    visit.page.locator("#fill-picture img").wait_for()
    visit.field("Text with _ for each blank").fill("a photo of the digit _")
    visit.run("fill")
    visit.screenshot("fill")
    text = visit.text("#fill-text .tokens").strip()
    assert text.startswith("a photo of the digit") and visit.page.locator("#fill-text mark").count() == 1
    made_again(visit, "fill", tmp_path / "again", {}, text)
    assert visit.faults == []


def test_texts_are_ranked(visit, tmp_path):
    latest_drawing(visit, "rank")
    visit.field("Texts, one on each line").fill("a handwritten six\na handwritten three\n")
    visit.run("rank")
    visit.screenshot("rank")
    rows = visit.page.locator("#rank-text tbody tr").all_inner_texts()
    assert len(rows) == 2 and "+0.00" in rows[0]
    if visit.server.is_demo:
        assert rows[0].startswith(PROMPT)
    made_again(visit, "rank", tmp_path / "again", {}, float(rows[0].split("\t")[1].split(" ±")[0]))
    assert visit.faults == []


def test_pairs_are_drawn(visit, tmp_path):
    visit.tab("Both")
    visit.page.get_by_label("number input for Pairs at once").locator("visible=true").fill("2")
    visit.run("both")
    visit.screenshot("both")
    expected = drawn(visit, "both", tmp_path / "first")
    assert len(expected) == 2
    made_again(visit, "both", tmp_path / "again", expected, visit.text("#both-text li >> nth=0").strip())
    assert visit.faults == []


def test_a_bad_upload_is_a_sentence(visit, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture" * 50)
    visit.tab("Read")
    visit.upload("read", bad)
    fault = visit.page.locator("#read-upload-fault [role=alert]")
    fault.wait_for()
    visit.screenshot("bad_upload")
    assert fault.inner_text().startswith("The upload: is not an image that can be read")
    visit.page.locator("#read-run").click()
    visit.page.locator("#read-fault [role=alert]").wait_for()
    assert visit.text("#read-fault").strip() == "There is no picture; choose a file, or take a drawing."
    assert visit.faults == []


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("Prompt", " ", "The prompt is empty; write something."),
        ("Height", "7777", "Height x width is 7777 x "),
        ("Prompt", "a handwritten zebra", "This model's tokenizer does not know 'zebra'"),
    ],
)
def test_a_fault_is_a_sentence_in_the_page(visit, field, value, sentence):
    visit.field("Prompt").fill(PROMPT)
    visit.open_settings()
    visit.field(field).fill(value)
    visit.page.locator("#draw-run").click()
    visit.page.locator("#draw-fault [role=alert]").wait_for()
    assert visit.text("#draw-fault").startswith(sentence)
    assert visit.faults == []


def test_two_visitors_at_once_see_their_own_pictures(browser, server, tmp_path):
    visits = [Visit(browser, server), Visit(browser, server)]
    for number, visit in enumerate(visits):
        visit.field("Prompt").fill(PROMPT)
        visit.open_settings()
        visit.field("Seed").fill(str(100 + number))
    for visit in visits:
        visit.page.locator("#draw-run").click()
    found = []
    for number, visit in enumerate(visits):
        visit.page.locator("#draw-files a").first.wait_for()
        assert f"--seed={100 + number}" in visit.text("#draw-command")
        found += drawn(visit, "draw", tmp_path / str(number)).values()
        assert visit.faults == []
        visit.close()
    assert len(set(found)) == 2


@pytest.mark.parametrize(("name", "width"), [("narrow", 360), ("wide", 1920)])
def test_the_page_fits_its_window(browser, server, name, width):
    visit = Visit(browser, server, width=width)
    for tab in ("Draw", "Read", "Edit", "Fill", "Rank", "Both"):
        if visit.page.get_by_role("tab", name=tab, exact=True).locator("visible=true").count():
            visit.tab(tab)
            wide = visit.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{tab} is {wide} pixels wide"
            visit.screenshot(f"{name}_{tab.lower()}")
    assert visit.faults == []
    visit.close()


def test_nothing_is_written_outside_the_temporary_folder(server):
    assert list(server.folder.iterdir()) == []
    assert [file.name for file in temporary(server.folder).iterdir() if file.name.startswith("dualdiff-app-")]
    assert list((ROOT / "dualdiff_jax").rglob("*.pyi")) == []


def test_the_terminal_shows_where_the_page_is_and_nothing_else(model, browser, tmp_path):
    """Lines from a server that nobody attacks: Gradio reports what it refuses."""
    (tmp_path / "own").mkdir()
    server = start(model, tmp_path / "own")
    visit = Visit(browser, server)
    visit.field("Prompt").fill(PROMPT)
    visit.run("draw")
    visit.close()
    shown = server.log.read_text()
    stop(server)
    assert shown.splitlines() == [f"the page is at {server.address}/; Ctrl+C ends it"]
