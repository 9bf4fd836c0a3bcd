"""Two processes of main.py, four devices each, are one run.

They compute the same as one process with eight devices, only the first writes and logs, and if one fails both end and
report why.
"""

import json
import re
import runpy
import shutil
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.array_record import unpack
from dualdiff_jax.data.records.manifest import MANIFEST
from dualdiff_jax.encoding.frozen_encoder import different
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.weights import load_model
from tests.end_to_end.command import HANG, ROOT
from tests.multidevice.connected_hosts import MARKER
from tests.multidevice.hosts import finish, free_port, start, start_two
from tests.small_run import RECORDS, write_data

STEPS = 4
ROUNDING = 1e-6  # relative; the hosts' sums are taken in another order
# A leaf that starts at zero holds nothing but a few of Adam's updates, which scale each gradient to one size: the
# rounding of a gradient, a sum in which much cancels, comes through undiluted (as in test_fsdp.py).
GRADIENT_ROUNDING = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with data and a config whose run makes previews and validates at its end."""
    folder = tmp_path_factory.mktemp("hosts")
    write_data(folder / "data")
    (folder / "config.py").write_text(CONFIG.format(data=str(folder / "data"), steps=STEPS))
    return folder


CONFIG = """
import pathlib
from tests.small_run import small_config
def get_config():
    root = pathlib.Path({data!r})
    config = small_config(root)
    config.model.mmdit.depth = 1
    config.optimizer.update(warmup_steps=0, schedule="constant", learning_rate=1e-3)
    config.train.update(steps={steps}, global_batch_size=8, log_every=1, save_every=2)
    config.preview.update(every={steps}, images=(str(root / "images/0.png"),), question="which digit is this?")
    config.preview.prompts = ("a handwritten three", "a photo of the digit seven", "a handwritten one")
    config.validation.update(every={steps}, batches=1, sources=config.data.to_dict()["sources"])
    return config
"""


def flags(folder: Path, workdir: str, *more: str, config: str = "config.py") -> list[str]:
    return ["main.py", "--mode=train", f"--config={folder / config}", f"--workdir={folder / workdir}", *more]


@pytest.fixture(scope="module")
def both(folder) -> tuple[Path, Path, list[str]]:
    """(workdir of two processes, of one process, what the two printed)."""
    printed = finish(two := start_two(*flags(folder, "two")))
    assert [process.returncode for process in two] == [0, 0], "\n".join(printed)
    alone = finish([one := start(*flags(folder, "one"), devices=8)])
    assert one.returncode == 0, alone
    return folder / "two", folder / "one", printed


def losses(workdir: Path, name: str = "metrics") -> np.ndarray:
    lines = [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]
    return np.asarray([[line[key] for key in ("step", "image_loss", "text_loss")] for line in lines])


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        starts_at_zero = name.endswith((".bias", "modulation.kernel", "image_out.kernel", "text_out.kernel"))
        difference = np.linalg.norm(np.asarray(found[name]) - value)
        bound = GRADIENT_ROUNDING if starts_at_zero else ROUNDING
        assert difference <= bound * np.linalg.norm(np.asarray(value)), name


def one_device() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


def test_two_processes_compute_the_same_as_one(both):
    two, one, _ = both
    assert len(losses(two)) == STEPS
    np.testing.assert_allclose(losses(two), losses(one), rtol=ROUNDING)
    np.testing.assert_allclose(losses(two, "validation"), losses(one, "validation"), rtol=ROUNDING)
    close(load_model(two / "model", one_device())[1], load_model(one / "model", one_device())[1])
    for name in (f"step_000000{STEPS}.png", f"step_000000{STEPS}.json"):
        assert (two / "samples" / name).read_bytes() == (one / "samples" / name).read_bytes()


def test_their_checkpoint_is_the_same_and_restores_in_one_process(both, folder):
    two, one, _ = both
    config = resolve(runpy.run_path(str(folder / "config.py"))["get_config"]())
    records = {source.name: RECORDS for source in config.data.sources}
    states = [Checkpoints(workdir, TrainSetup(config, one_device())).restore(records)[0] for workdir in (two, one)]
    for part in ("params", "ema_params"):
        close(getattr(states[0], part), getattr(states[1], part))
    assert int(states[0].step) == int(states[1].step) == STEPS


# A line of Gloo's, or of pieces of several: its threads print "Rank 0 is connected to 7 peer ranks" word by word.
GLOO = re.compile(r"(\[Gloo\]|Rank|is|connected|to|peer|ranks\.?|Expected|number|of|:|\d|\s)*")


def test_only_the_first_writes_and_logs(both):
    two, one, printed = both
    lines = [[line for line in text.splitlines() if not GLOO.fullmatch(line)] for text in printed]
    progress = [f"step {step}/{STEPS} " in line for step, line in enumerate(lines[0], 1)]
    assert progress == [True] * STEPS + [False] and lines[0][-1] == str(two / "model"), lines[0]
    assert lines[1] == []
    files = [{str(path.relative_to(workdir)) for path in workdir.rglob("*.json*")} for workdir in (two, one)]
    assert files[0] == files[1] and "model/model.json" in files[0]
    by_second = [path.relative_to(two) for path in two.rglob("*") if path.is_file() and not path.stat().st_mode & 0o044]
    assert by_second and all("process_1" in str(path) for path in by_second), by_second  # its own shards
    assert not [path for path in two.rglob("*") if "partial" in path.name or "tmp" in path.name]


def wait_for_lines(processes: list[subprocess.Popen], metrics: Path, count: int) -> None:
    """Until ``metrics`` has ``count`` lines; an error if a process ends before."""
    deadline = time.monotonic() + HANG
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.1)


ENDLESS = ("--config.train.steps=1000000", "--config.preview.every=0", "--config.validation.every=0")


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other(folder, victim):
    workdir = folder / f"killed_{victim}"
    processes = start_two(*flags(folder, workdir.name, *ENDLESS))
    wait_for_lines(processes, workdir / "metrics.jsonl", 2)
    processes[victim].kill()
    printed = finish(processes)[1 - victim]
    assert processes[1 - victim].returncode not in (0, None)
    if victim == 1:
        assert "error: process 1 on" in printed and "has given no sign of life for" in printed
        assert processes[0].returncode == 1
    else:
        assert "process 0 cannot be reached any more" in printed or "leader task was preempted/died" in printed


def test_data_that_differ_on_one_host_end_both_with_its_reason(folder):
    """Each host has a disk of its own, under the same name; the images of the second one are truncated."""
    for number in (0, 1):
        shutil.copytree(folder / "data", folder / f"host_{number}" / "local")
    for image in (folder / "host_1" / "local" / "images").iterdir():
        image.write_bytes(image.read_bytes()[:40])
    (folder / "local.py").write_text(CONFIG.format(data="local", steps=STEPS))
    command = [str(ROOT / "main.py"), "--mode=train", f"--config={folder / 'local.py'}", f"--workdir={folder / 'torn'}"]
    command += [*ENDLESS, f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    processes = [start(*command, f"--process_id={n}", cwd=folder / f"host_{n}") for n in (0, 1)]
    printed = finish(processes)
    assert [process.returncode for process in processes] == [1, 1], printed
    why = "the data of this host differ from the first host's in source 'images' (its images)"
    assert "error: " in printed[1] and why in printed[1].split("error: ")[1], printed
    assert "error: process 1 on " in printed[0] and why in printed[0].split("error: process 1")[1], printed


def test_different_configs_are_refused(folder):
    port = f"--coordinator=127.0.0.1:{free_port()}"
    more = [*flags(folder, "different", *ENDLESS), port, "--num_processes=2"]
    processes = [start(*more, "--process_id=0"), start(*more, "--process_id=1", "--config.train.save_every=7")]
    printed = finish(processes)
    assert [process.returncode for process in processes] == [1, 1], printed
    assert "train.save_every: 2 -> 7" in printed[0] and "train.save_every: 2 -> 7" in printed[1]


@pytest.fixture(scope="module")
def encoded(folder) -> tuple[Path, Path, list[str]]:
    """(folder that two processes have encoded, folder of one process, what the two printed)."""
    encode = ("main.py", "--mode=encode-data", f"--config={folder / 'config.py'}")
    two = start_two(*encode, f"--output={folder / 'encoded_two'}")
    printed = finish(two)
    (alone,) = finish([one := start(*encode, f"--output={folder / 'encoded_one'}")])
    assert [process.returncode for process in (*two, one)] == [0, 0, 0], (printed, alone)
    return folder / "encoded_two", folder / "encoded_one", printed


@pytest.mark.slow
def test_two_processes_encode_the_same_as_one(encoded):
    """They take turns, file by file."""
    *roots, printed = encoded
    for name in ("images", "questions"):
        assert f'name="{name}"' in printed[0] and f'name="{name}"' not in printed[1]
    found, expected = ({str(file.relative_to(root)): file for file in root.rglob("*.*")} for root in roots)
    assert found.keys() == expected.keys() and len([name for name in found if name.endswith(".array_record")]) == 3
    for name, file in expected.items():
        if name.endswith(".array_record"):
            same_records(found[name], file)
        elif file.name == MANIFEST:  # its fingerprints are sums over weights, of which each process adds its own part
            manifests = [json.loads(path.read_text()) for path in (found[name], file)]
            assert not different(*(manifest.pop("fingerprints") for manifest in manifests)), name
            assert manifests[0] == manifests[1], name
        else:
            assert found[name].read_bytes() == file.read_bytes(), name


def same_records(found: Path, expected: Path) -> None:
    """Equal to one bf16 rounding: on two hosts the compiler takes fp32 sums in another order."""
    sources = [ArrayRecordDataSource([str(file)]) for file in (found, expected)]
    assert len(sources[0]) == len(sources[1]) == RECORDS
    for rows in zip(*sources, strict=True):
        one, other = map(unpack, rows)
        assert (one.record_id, one.captions, one.turns) == (other.record_id, other.captions, other.turns)
        assert one.arrays.keys() == other.arrays.keys() and one.arrays
        for name, values in other.arrays.items():
            value, close_to = one.arrays[name].astype(np.float32), values.astype(np.float32)
            np.testing.assert_allclose(value, close_to, rtol=2**-7, err_msg=name)


@pytest.mark.slow
def test_two_processes_train_from_encoded_data_like_one(encoded, folder):
    root = encoded[0]
    (folder / "from_encoded.py").write_text(
        (folder / "config.py").read_text().replace("    return config", f"{FROM_ENCODED.format(root=str(root))}")
    )
    more = ("--config.preview.every=0", "--config.validation.every=0", "--config.objective.caption_dropout=0.5")
    printed = finish(two := start_two(*flags(folder, "encoded_by_two", *more, config="from_encoded.py")))
    printed += finish([one := start(*flags(folder, "encoded_by_one", *more, config="from_encoded.py"), devices=8)])
    assert [process.returncode for process in (*two, one)] == [0, 0, 0], printed
    np.testing.assert_allclose(losses(folder / "encoded_by_two"), losses(folder / "encoded_by_one"), rtol=ROUNDING)


FROM_ENCODED = """\
    config.data.sources = [
        source | dict(format="array_record", root={root!r} + "/" + source["name"], files="*.array_record")
        for source in config.to_dict()["data"]["sources"]
    ]
    config.train.trainable = ("mmdit.*",)
    return config"""


def train_with_trouble(folder: Path, what: str) -> tuple[list[subprocess.Popen], list[str]]:
    """Both hosts of ``full_hosts``, and what they printed."""
    port = str(free_port())
    arguments = ("-m", "tests.multidevice.full_hosts", str(folder / "config.py"))
    processes = [start(*arguments, str(number), port, what) for number in (0, 1)]
    return processes, finish(processes)


@pytest.mark.slow
def test_without_room_both_continue_and_save_later(folder):
    processes, printed = train_with_trouble(folder, "room")
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "cannot be written (process 0: there is no room); there is none before it; training goes on" in printed[0]
    assert {path.name for path in (folder / "room" / "checkpoints").iterdir()} == {"3", "4"}
    assert (folder / "room" / "model").is_dir()
    for text in printed:  # training, saving, previews and validation use connected groups only
        assert "[Gloo]" in text.split(MARKER)[0] and "[Gloo]" not in text.split(MARKER)[1], text


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_save_that_fails_on_one_host_is_given_up_by_both_and_made_later(folder, both, victim):
    processes, printed = train_with_trouble(folder, victim)
    assert [process.returncode for process in processes] == [0, 0], printed
    assert f"a checkpoint cannot be written (process {victim}: " in printed[0]
    assert "File too large" in printed[0], printed[0]
    assert "there is none before it; training goes on" in printed[0]
    assert "cannot be written" not in printed[1]
    assert {path.name for path in (folder / victim / "checkpoints").iterdir()} == {"4"}
    np.testing.assert_array_equal(losses(folder / victim), losses(both[0]))


@pytest.mark.slow
def test_a_host_may_come_to_its_first_step_later_than_gloo_waits(folder):
    processes, printed = train_with_trouble(folder, "late")
    assert [process.returncode for process in processes] == [0, 0], printed


def test_after_connect_no_program_connects_a_group_of_devices():
    """Gloo prints a line for each connection; a later one would fail if the other process compiles 30 s longer."""
    port = str(free_port())
    processes = [start("-m", "tests.multidevice.connected_hosts", str(number), port) for number in (0, 1)]
    printed = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], printed
    for text in printed:
        assert "[Gloo]" in text.split(MARKER)[0] and "[Gloo]" not in text.split(MARKER)[1], text
