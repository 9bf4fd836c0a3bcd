"""Two processes of main.py, four devices each, are one run: they compute what one process with eight does, the first
alone writes, and where one fails both end with its reason."""

import json
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
from dualdiff_jax.weights import load_model
from tests.multidevice.hosts import ROOT, finish, free_port, start, start_two
from tests.small_run import RECORDS, write_data

STEPS = 4
ROUNDING = 1e-6  # relative; the hosts' sums are taken in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With data, and a config that draws, reads and validates at the end."""
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
    """(workdir of two processes, of one process, what the two said)."""
    told = finish(two := start_two(*flags(folder, "two")))
    assert [process.returncode for process in two] == [0, 0], "\n".join(told)
    alone = finish([one := start(*flags(folder, "one"), devices=8)])
    assert one.returncode == 0, alone
    return folder / "two", folder / "one", told


def losses(workdir: Path, name: str = "metrics") -> np.ndarray:
    lines = [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]
    return np.asarray([[line[key] for key in ("step", "image_loss", "text_loss")] for line in lines])


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = np.linalg.norm(np.asarray(found[name]) - value)
        assert difference <= ROUNDING * np.linalg.norm(np.asarray(value)), name


def one_device() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


def test_two_processes_compute_what_one_does(both):
    two, one, _ = both
    assert len(losses(two)) == STEPS
    np.testing.assert_allclose(losses(two), losses(one), rtol=ROUNDING)
    np.testing.assert_allclose(losses(two, "validation"), losses(one, "validation"), rtol=ROUNDING)
    close(load_model(two / "model", one_device())[1], load_model(one / "model", one_device())[1])
    for name in (f"step_000000{STEPS}.png", f"step_000000{STEPS}.json"):
        assert (two / "samples" / name).read_bytes() == (one / "samples" / name).read_bytes()


def test_their_checkpoint_is_the_same_and_goes_on_in_one_process(both, folder):
    two, one, _ = both
    config = resolve(runpy.run_path(str(folder / "config.py"))["get_config"]())
    records = {source.name: RECORDS for source in config.data.sources}
    states = [Checkpoints(workdir, config, one_device()).restore(records)[0] for workdir in (two, one)]
    for part in ("params", "ema_params"):
        close(getattr(states[0], part), getattr(states[1], part))
    assert int(states[0].step) == int(states[1].step) == STEPS


def test_the_first_alone_writes_and_speaks(both):
    two, one, told = both
    spoken = [[line for line in text.splitlines() if "Gloo" not in line and "peer ranks" not in line] for text in told]
    assert spoken[0][-1] == str(two / "model") and any("step 4/4" in line for line in spoken[0])
    assert spoken[1] == []
    files = [{str(path.relative_to(workdir)) for path in workdir.rglob("*.json*")} for workdir in (two, one)]
    assert files[0] == files[1] and "model/model.json" in files[0]
    by_second = [path.relative_to(two) for path in two.rglob("*") if path.is_file() and not path.stat().st_mode & 0o044]
    assert by_second and all("process_1" in str(path) for path in by_second), by_second  # its own shards
    assert not [path for path in two.rglob("*") if "partial" in path.name or "tmp" in path.name]


def until(processes: list[subprocess.Popen], metrics: Path, lines: int) -> None:
    deadline = time.monotonic() + 240
    while not metrics.exists() or len(metrics.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.1)


LONG = ("--config.train.steps=4000", "--config.preview.every=0", "--config.validation.every=0")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(folder, victim):
    workdir = folder / f"killed_{victim}"
    processes = start_two(*flags(folder, workdir.name, *LONG))
    until(processes, workdir / "metrics.jsonl", 2)
    processes[victim].kill()
    start_of_end = time.monotonic()
    told = finish(processes, timeout=100)[1 - victim]
    assert time.monotonic() - start_of_end < 60
    assert processes[1 - victim].returncode not in (0, None)
    if victim == 1:
        assert "error: process 1 on" in told and "has given no sign of life for" in told
        assert processes[0].returncode == 1
    else:
        assert "process 0 cannot be reached any more" in told or "leader task was preempted/died" in told


def test_data_that_one_host_cannot_read_ends_both_with_its_reason(folder):
    """Each host has a disk of its own, under the same name; the second one's images are torn."""
    for number in (0, 1):
        shutil.copytree(folder / "data", folder / f"host_{number}" / "local")
    for image in (folder / "host_1" / "local" / "images").iterdir():
        image.write_bytes(image.read_bytes()[:40])
    (folder / "local.py").write_text(CONFIG.format(data="local", steps=STEPS))
    command = [str(ROOT / "main.py"), "--mode=train", f"--config={folder / 'local.py'}", f"--workdir={folder / 'torn'}"]
    command += [*LONG, f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    processes = [start(*command, f"--process_id={n}", cwd=folder / f"host_{n}") for n in (0, 1)]
    told = finish(processes, timeout=120)
    assert [process.returncode for process in processes] == [1, 1], told
    why = "png: is not an image that can be read"
    assert "error: " in told[1] and why in told[1].split("error: ")[1], told
    assert "error: process 1 on " in told[0] and why in told[0].split("error: process 1")[1], told


def test_different_configs_are_refused(folder):
    port = f"--coordinator=127.0.0.1:{free_port()}"
    more = [*flags(folder, "different", *LONG), port, "--num_processes=2"]
    processes = [start(*more, "--process_id=0"), start(*more, "--process_id=1", "--config.train.save_every=7")]
    told = finish(processes, timeout=120)
    assert [process.returncode for process in processes] == [1, 1], told
    assert "train.save_every: 2 -> 7" in told[0] and "train.save_every: 2 -> 7" in told[1]


@pytest.fixture(scope="module")
def encoded(folder) -> tuple[Path, Path, list[str]]:
    """(what two processes have encoded, what one has, what the two said)."""
    encode = ("main.py", "--mode=encode-data", f"--config={folder / 'config.py'}")
    two = start_two(*encode, f"--output={folder / 'encoded_two'}")
    told = finish(two)
    (alone,) = finish([one := start(*encode, f"--output={folder / 'encoded_one'}")])
    assert [process.returncode for process in (*two, one)] == [0, 0, 0], (told, alone)
    return folder / "encoded_two", folder / "encoded_one", told


def test_two_processes_encode_what_one_does(encoded):
    """They take turns, file by file."""
    *roots, told = encoded
    assert all(f'name="{name}"' in told[0] and f'name="{name}"' not in told[1] for name in ("images", "questions"))
    found, expected = ({str(file.relative_to(root)): file for file in root.rglob("*.*")} for root in roots)
    assert found.keys() == expected.keys() and len([name for name in found if name.endswith(".array_record")]) == 3
    for name, file in expected.items():
        if name.endswith(".array_record"):
            same_records(found[name], file)
        elif file.name == MANIFEST:  # sums over weights, of which each process adds its own part
            manifests = [json.loads(path.read_text()) for path in (found[name], file)]
            assert not different(*(manifest.pop("fingerprints") for manifest in manifests)), name
            assert manifests[0] == manifests[1], name
        else:
            assert found[name].read_bytes() == file.read_bytes(), name


def same_records(found: Path, expected: Path) -> None:
    """To one bf16 rounding: on more hosts fp32 sums are compiled in another order."""
    sources = [ArrayRecordDataSource([str(file)]) for file in (found, expected)]
    assert len(sources[0]) == len(sources[1]) == RECORDS
    for rows in zip(*sources, strict=True):
        one, other = map(unpack, rows)
        assert (one.record_id, one.captions, one.turns) == (other.record_id, other.captions, other.turns)
        assert one.arrays.keys() == other.arrays.keys() and one.arrays
        for name, values in other.arrays.items():
            value, close_to = one.arrays[name].astype(np.float32), values.astype(np.float32)
            np.testing.assert_allclose(value, close_to, rtol=2**-7, err_msg=name)


def test_two_processes_train_from_encoded_data_as_one_does(encoded, folder):
    root = encoded[0]
    (folder / "from_encoded.py").write_text(
        (folder / "config.py").read_text().replace("    return config", f"{FROM_ENCODED.format(root=str(root))}")
    )
    more = ("--config.preview.every=0", "--config.validation.every=0", "--config.objective.caption_dropout=0.5")
    told = finish(two := start_two(*flags(folder, "encoded_by_two", *more, config="from_encoded.py")))
    told += finish([one := start(*flags(folder, "encoded_by_one", *more, config="from_encoded.py"), devices=8)])
    assert [process.returncode for process in (*two, one)] == [0, 0, 0], told
    np.testing.assert_allclose(losses(folder / "encoded_by_two"), losses(folder / "encoded_by_one"), rtol=ROUNDING)


FROM_ENCODED = """\
    config.data.sources = [
        source | dict(format="array_record", root={root!r} + "/" + source["name"], files="*.array_record")
        for source in config.to_dict()["data"]["sources"]
    ]
    config.train.trainable = ("mmdit.*",)
    return config"""


def full(folder: Path, what: str) -> tuple[list[subprocess.Popen], list[str]]:
    port = str(free_port())
    arguments = ("-m", "tests.multidevice.full_hosts", str(folder / "config.py"))
    processes = [start(*arguments, str(number), port, what) for number in (0, 1)]
    return processes, finish(processes, timeout=240)


def test_where_there_is_no_room_both_go_on_and_save_later(folder):
    processes, told = full(folder, "room")
    assert [process.returncode for process in processes] == [0, 0], told
    assert "cannot be written (there is no room); there is none before it; training goes on" in told[0]
    assert {path.name for path in (folder / "room" / "checkpoints").iterdir()} == {"3", "4"}
    assert (folder / "room" / "model").is_dir()


@pytest.mark.slow
def test_a_save_that_fails_on_one_host_ends_both_with_its_reason(folder):
    processes, told = full(folder, "surprise")
    assert [process.returncode for process in processes] == [1, 1], told
    assert "error: process 1 on" in told[0] and "cannot be written" in told[0]
    kept = [path.name for path in (folder / "surprise" / "checkpoints").iterdir() if path.name.isdigit()]
    assert not kept and not (folder / "surprise" / "model").exists()
