"""A server of the page, started as a user starts it, and a browser. Screenshots lie in runs/app_screenshots."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.pipeline.shallow import shallow_pipeline

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "runs" / "demo" / "model"
SCREENSHOTS = ROOT / "runs" / "app_screenshots"
CHROMIUM = ["--no-sandbox", "--disable-dev-shm-usage"]  # for root, and where /dev/shm is small: in a container
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
HANG = 300  # seconds; ends a wait that nothing ends, on however busy a machine


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where these tests are not asked for, their files are not read: they import what only they need."""
    return True if "not app" in config.getoption("markexpr") else None


class Server(NamedTuple):
    """A page that is served."""

    address: str
    model: Path
    seconds: float  # from its start until it could be asked
    process: subprocess.Popen
    log: Path
    folder: Path  # where it was started; nothing may appear in it

    @property
    def is_demo(self) -> bool:
        return self.model == DEMO


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The demo's model where there is one, else a small one with random weights."""
    if (DEMO / "model.json").is_file():
        return DEMO
    folder = tmp_path_factory.mktemp("model")
    pipe = shallow_pipeline(folder / "tokenizer")
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def start(model: Path, folder: Path, **environment: str) -> Server:
    """Starts the page in ``folder`` and waits until it can be asked."""
    log, started = folder.parent / f"{folder.name}.log", time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), "--mode=app", f"--model={model}", "--port=0"],
            cwd=folder,
            env=os.environ | {"TMPDIR": str(temporary(folder))} | environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    while time.monotonic() - started < HANG and process.poll() is None:
        if found := re.search(r"the page is at (\S+?)/?;", log.read_text()):
            return Server(found[1], model, time.monotonic() - started, process, log, folder)
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"the page did not start:\n{log.read_text()}")


def temporary(folder: Path) -> Path:
    """The folder for temporary files of a server that was started in ``folder``."""
    found = folder.parent / f"{folder.name}_tmp"
    found.mkdir(exist_ok=True)
    return found


def stop(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=HANG)


@pytest.fixture(scope="session")
def server(model, tmp_path_factory) -> Iterator[Server]:
    found = start(model, tmp_path_factory.mktemp("server"))
    yield found
    if found.process.poll() is None:
        stop(found)


@pytest.fixture(scope="session")
def playwright():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as found:
        yield found


@pytest.fixture
def browser(playwright):
    """A browser for one test alone: pages that other tests left open cannot slow it down."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "there is no Chromium; apt-get install chromium (as root), or put one on PATH"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    found = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM, timeout=1000 * HANG)
    yield found
    found.close()


class Visit:
    """One visitor's page, which remembers what went wrong in the browser and what it asked of other hosts."""

    def __init__(self, browser, server: Server, width: int = 1280, height: int = 1000):
        self.server = server
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * HANG)
        self.faults: list[str] = []
        self.page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.goto(server.address)
        self.page.get_by_role("tab", name="Draw").wait_for()

    def _dialog(self, dialog) -> None:
        self.faults.append(f"a script opened a dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request) -> None:
        if not request.url.startswith((self.server.address, "data:", "blob:")):
            self.faults.append(f"asks {request.url}")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def field(self, label: str):
        return self.page.get_by_label(label, exact=True).locator("visible=true")

    def open_settings(self) -> None:
        """Opens the tab's settings and waits until they are drawn: a field takes its first value after it is made."""
        self.page.get_by_role("button", name="Settings").locator("visible=true").click()
        self.field("Seed").or_(self.field("Steps")).first.wait_for()
        self.page.evaluate(TWO_FRAMES)

    def run(self, name: str) -> None:
        """Presses the button of the tab and waits until the call that made the result is shown."""
        self.page.locator(f"#{name}-run").click()
        self.page.locator(f"#{name}-command .cm-content", has_text="--mode=").wait_for()
        self.page.locator(f"#{name}-files a").first.wait_for()

    def upload(self, name: str, file) -> None:
        self.page.locator(f"#{name}-upload input[type=file]").set_input_files(file)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def downloads(self, name: str, folder: Path) -> list[Path]:
        """The files of the result."""
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for link in self.page.locator(f"#{name}-files a[download]").all():
            address = link.get_attribute("href")
            answer = self.page.request.get(address)
            assert answer.ok, address
            file = folder / (link.get_attribute("download") or address.rsplit("/", 1)[1])
            file.write_bytes(answer.body())
            found.append(file)
        return found

    def screenshot(self, name: str) -> None:
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def visit(browser, server) -> Iterator[Visit]:
    found = Visit(browser, server)
    yield found
    found.close()
