"""Moments of parts are those of the whole, and files hold what was written."""

import numpy as np
import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.fid.statistics import Moments, Statistics, read_statistics, write_statistics

SIZE = 24


def features(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, SIZE)) @ rng.standard_normal((SIZE, SIZE)) + 1000).astype(np.float32)


@pytest.mark.parametrize("cuts", [[], [1], [0, 40, 40, 99], [50], [7, 8, 9]])
def test_moments_of_parts_are_those_of_the_whole(cuts):
    whole = features(100)
    moments = Moments(SIZE)
    for part in np.split(whole, cuts):
        moments.update(part)
    found = moments.statistics()
    np.testing.assert_allclose(found.mean, whole.astype(np.float64).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(whole.astype(np.float64), rowvar=False), rtol=1e-10)
    assert found.count == 100


def test_moments_of_processes_merge():
    whole, parts = features(100), [Moments(SIZE) for _ in range(3)]
    for number, moments in enumerate(parts):
        moments.update(whole[number::3])
    merged = Moments(SIZE)
    for each in (*parts, Moments(SIZE)):
        merged.merge(each.count, each.mean, each.scatter)
    np.testing.assert_allclose(
        merged.statistics().covariance, np.cov(whole.astype(np.float64), rowvar=False), rtol=1e-10
    )


def test_one_image_has_no_covariance():
    moments = Moments(SIZE)
    moments.update(features(1))
    with pytest.raises(UserError, match="at least 2 images, found 1"):
        moments.statistics()


def test_a_file_holds_what_was_written(tmp_path):
    moments = Moments(SIZE)
    moments.update(features(30))
    written = moments.statistics("clean-fid", "abc")
    write_statistics(tmp_path / "a.npz", written)
    read = read_statistics(tmp_path / "a.npz", SIZE)
    assert (read.count, read.resize, read.weights) == (30, "clean-fid", "abc")
    np.testing.assert_array_equal(read.mean, written.mean)
    np.testing.assert_array_equal(read.covariance, written.covariance)


def test_a_file_of_pytorch_fid_is_read(tmp_path):
    values = features(30).astype(np.float64)
    np.savez_compressed(tmp_path / "a.npz", mu=values.mean(axis=0), sigma=np.cov(values, rowvar=False))
    read = read_statistics(tmp_path / "a.npz", SIZE)
    assert read[2:] == (0, "", "")
    np.testing.assert_array_equal(read.mean, values.mean(axis=0))


GOOD = {"mu": np.zeros(SIZE), "sigma": np.eye(SIZE)}


@pytest.mark.parametrize(
    "arrays, fault",
    [
        ({"mu": GOOD["mu"]}, "it has no sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, r"mu of shape \(3,\)"),
        (GOOD | {"mu": np.full(SIZE, np.nan)}, "not finite"),
        (GOOD | {"sigma": np.triu(np.ones((SIZE, SIZE)))}, "not symmetric"),
        (GOOD | {"mu": np.array([None] * SIZE)}, "no file of FID statistics"),
        (GOOD | {"mu": np.zeros(1 << 20)}, "bytes, more than"),
        (GOOD | {"mu": np.array(["a"] * SIZE)}, "no file of FID statistics"),
        (GOOD | {"count": np.array("many")}, "no file of FID statistics"),
        (GOOD | {"count": np.array([3, 4])}, "no file of FID statistics"),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, fault):
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=fault) as raised:
        read_statistics(tmp_path / "a.npz", SIZE)
    assert str(raised.value).startswith(str(tmp_path / "a.npz"))


def test_a_missing_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_statistics(tmp_path / "a.npz", SIZE)
    write_statistics(tmp_path / "a.npz", Statistics(GOOD["mu"], GOOD["sigma"]))
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:300] + b"\xff" * 90 + whole[390:]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(UserError, match="no file of FID statistics"):
            read_statistics(tmp_path / "a.npz", SIZE)
