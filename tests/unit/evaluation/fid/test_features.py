"""Features of many images: the same on any number of devices and processes, from any mixture of files."""

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.fid.image_folder import check_images, open_folder, share
from tests.multidevice.eight import run_module
from tests.multidevice.hosts import finish, start_two
from tests.unit.evaluation.fid import narrow
from tests.unit.evaluation.fid.eight_devices import COUNT

MODULE = "tests.unit.evaluation.fid.eight_devices"  # two batches there, one of them not full


def save(file, size=(20, 30), seed=0, mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode).save(file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fid")
    narrow.write(folder / "inception.pth")
    for number in range(COUNT):
        save(folder / f"images/{number % 3}/{number}.png", (20 + number, 30), number)
    return folder


def load(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return dict(stored)


def assert_equal(one, other):
    assert one["count"] == other["count"] == COUNT
    for name in ("mean", "covariance"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-6, atol=1e-6 * np.abs(one[name]).max())


def test_eight_devices_find_what_one_finds(folder):
    run_module(MODULE, folder, 8)
    assert_equal(load(folder, "one_1_0"), load(folder, "all_1_0"))


@pytest.mark.slow
def test_two_processes_find_what_one_device_finds(folder):
    run_module(MODULE, folder, 1)
    processes = start_two("-m", MODULE, str(folder))
    said = finish(processes)
    assert all(process.returncode == 0 for process in processes), said
    first, second = load(folder, "all_2_0"), load(folder, "all_2_1")
    assert all(np.array_equal(first[name], second[name]) for name in first)  # bit by bit
    assert_equal(load(folder, "one_1_0"), first)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_processes_read_each_image_once(count, parts):
    names = [str(number) for number in range(count)]
    shares = [list(share(names, 8, part, parts)) for part in range(parts)]
    assert {len(each) for each in shares} == {-(-count // 8)}
    assert all(len(rows) == 8 // parts for each in shares for rows, _ in each)
    assert sorted(name for each in shares for rows, valid in each for name in rows[:valid]) == sorted(names)


def test_a_folder_is_listed_with_its_folders_and_without_hidden_files(tmp_path):
    for name in ("b.png", "a/c.jpg", "a/B.JPEG", ".hidden.png", ".cache/x.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".0000.png.partial").write_text("")
    assert open_folder(tmp_path).names == ("a/B.JPEG", "a/c.jpg", "b.png")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_images_are_read_as_pillow_converts_them(tmp_path, mode):
    file = save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode=mode)
    with Image.open(file) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(open_folder(tmp_path).read(file.name), expected)


def test_damaged_images_are_named_together(tmp_path):
    for number, name in enumerate(("a.png", "b.jpg", "c.png", "d.jpg", "e.jpg", "f.png")):
        save(tmp_path / name, (200, 200), number)
    for name in ("b.jpg", "c.png", "d.jpg"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    (tmp_path / "e.jpg").write_bytes(b"")
    folder = open_folder(tmp_path)
    with pytest.raises(UserError) as raised:
        check_images(folder, folder.names, alike=True)
    message = str(raised.value)
    assert "4 of 6 images cannot be read" in message and ", and 1 more" in message
    assert all(str(tmp_path / name) in message for name in ("b.jpg", "c.png", "d.jpg"))


@pytest.mark.parametrize("alike, sizes", [(True, 1), (True, 2), (False, 2)])
def test_images_of_several_sizes_give_a_warning(tmp_path, caplog, alike, sizes):
    for number in range(4):
        save(tmp_path / f"{number}.png", (20 + number % sizes, 30))
    folder = open_folder(tmp_path)
    assert sum(check_images(folder, folder.names, alike=alike).values()) == 4
    assert ("has images of 2 sizes, 2 of 30 x 20" in caplog.text) == (alike and sizes == 2)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        open_folder(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no image"):
        open_folder(tmp_path)
