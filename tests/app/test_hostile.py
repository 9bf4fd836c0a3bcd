"""Visitors who mean harm: damaged and foreign files, markup in texts, paths of the server, ten at once."""

import concurrent.futures
import io
import zipfile

import numpy as np
import pytest
import requests
from gradio_client import Client, handle_file
from PIL import Image

from tests.app.conftest import HANG, Visit
from tests.fuzz.mutations import several

pytestmark = pytest.mark.app
FILES = 50
MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "${alert(1)} {{constructor.constructor('alert(1)')()}} `${alert(1)}`",
    '"><svg onload=alert(1)>',
    "</code></pre><iframe srcdoc='<script>parent.alert(1)</script>'>",
)
SIGNS_OF_A_TRACEBACK = ("Traceback", 'File "', "Error:", "site-packages")


def seeds() -> dict[str, bytes]:
    """Sound files of several kinds."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    found = {}
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        out = io.BytesIO()
        image.save(out, kind)
        found[kind.lower()] = out.getvalue()
    archive, arrays = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", b"\x80\x04N.")
    np.save(arrays, np.arange(6))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
    return found | {"pt": archive.getvalue(), "npy": arrays.getvalue(), "json": b'[{"image": "a.png"}]', "svg": svg}


def hostile_files() -> list[tuple[str, bytes]]:
    """``FILES`` of them: each kind damaged in turn, then whole files of other kinds than their names say."""
    rng, kinds, found = np.random.default_rng(7), seeds(), []
    for number in range(FILES - 4):
        kind = list(kinds)[number % len(kinds)]
        found.append((f"{number}.{kind}", several(kinds[kind], rng) or b"\0"))
    found += [("empty.png", b""), ("page.png", b"<html><script>alert(1)</script></html>")]
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    return [*found, ("bomb.png", bomb.getvalue()), ("<img src=x onerror=alert(1)>.png", kinds["svg"])]


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server.address, verbose=False, analytics_enabled=False)


def test_each_hostile_file_is_a_picture_or_a_sentence(server, visit, tmp_path):
    visit.tab("Read")
    sentences = pictures = 0
    for number, (name, data) in enumerate(hostile_files()):
        visit.page.evaluate("document.querySelectorAll('#read-upload-fault [role=alert]').forEach(e => e.remove())")
        before = visit.page.locator("#read-picture img").get_attribute("src") if pictures else None
        visit.upload("read", {"name": name, "mimeType": "image/png", "buffer": data})
        visit.page.wait_for_function(
            """before => document.querySelector('#read-upload-fault [role=alert]')
            || (document.querySelector('#read-picture img') || {src: before}).src != before""",
            arg=before,
        )
        shown = visit.text("#read-upload-fault").strip()
        if shown:
            sentences += 1
            assert not any(sign in shown for sign in SIGNS_OF_A_TRACEBACK), f"{number} {name}: {shown}"
            assert str(server.folder.parent) not in shown, "a path of the server is shown"
        else:
            pictures += 1
    visit.screenshot("hostile_uploads")
    assert sentences >= 20 and pictures >= 3
    assert visit.faults == []
    assert server.process.poll() is None and "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("markup", MARKUP)
def test_markup_in_texts_is_text(visit, markup):
    visit.field("Prompt").fill(f"a handwritten three {markup}")
    visit.page.locator("#draw-run").click()
    visit.page.locator("#draw-fault [role=alert], #draw-files a").first.wait_for()
    visit.tab("Both")
    visit.field("The texts begin with").fill(markup)
    visit.page.locator("#both-run").click()
    visit.page.locator("#both-fault [role=alert], #both-files a").first.wait_for()
    visit.screenshot("markup")
    assert visit.page.locator("#draw-fault script, #draw-fault img, #draw-fault svg, iframe").count() == 0
    assert visit.faults == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "http://127.0.0.1:9/x.png"])
def test_no_file_of_the_server_and_no_address_is_read(server, path):
    given = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}  # by hand: a client uploads its own file
    call = f"{server.address}/gradio_api/call/read_picture"
    event = requests.post(call, json=given, timeout=HANG).json()["event_id"]
    answer = requests.get(f"{call}/{event}", timeout=HANG).text
    assert answer.startswith("event: error") and not any(sign in answer for sign in SIGNS_OF_A_TRACEBACK)
    for route in ("gradio_api/file=", "file=", "gradio_api/file/"):
        answer = requests.get(f"{server.address}/{route}{path}", timeout=HANG)
        assert answer.status_code != 200 or b"root:" not in answer.content


@pytest.mark.parametrize(
    "painted", [None, [], {"mask": 3}, {"mask": "data:image/png;base64,!!"}, {"mask": "data:text/html;base64,AAAA"}]
)
def test_what_is_no_mask_is_a_sentence(client, server, tmp_path, painted):
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(file)
    client.predict(handle_file(str(file)), api_name="/read_picture")
    shown = client.predict(
        painted, "the painted part", "a handwritten three", "", 1.0, 8, 8, 2, 1.0, "euler", 0, 1, api_name="/edit"
    )
    assert "role=&#34;alert" not in str(shown[0]) and 'role="alert"' in str(shown[0])
    assert server.process.poll() is None


def test_ten_visitors_at_once_are_all_served(server):
    def draw(number: int) -> str:
        visitor = Client(server.address, verbose=False, analytics_enabled=False)
        found = visitor.predict("a handwritten three", "", 8, 8, 4, 1.0, "euler", number, 1, api_name="/draw")
        return str(found)

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        found = list(pool.map(draw, range(10)))
    for number, each in enumerate(found):
        assert f"--seed={number} " in each.replace("\\n", " ").replace("\\", "")
    assert server.process.poll() is None


def test_a_visitor_without_a_page_learns_no_path_of_the_server(browser, server):
    visit = Visit(browser, server)
    body = visit.page.content() + requests.get(f"{server.address}/config", timeout=HANG).text
    assert str(server.folder.parent) not in body.replace(str(server.model), "")
    assert visit.faults == []
    visit.close()
