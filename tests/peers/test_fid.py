"""Features, resizes and distances are those of torch-fidelity, pytorch-fid and clean-fid, at the true size."""

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.evaluation.fid import features
from dualdiff_jax.evaluation.fid.features import FeatureNetwork
from dualdiff_jax.evaluation.fid.frechet import frechet_distance
from dualdiff_jax.evaluation.fid.inception_weights import read_weights
from dualdiff_jax.evaluation.fid.resizes import RESIZES
from dualdiff_jax.evaluation.fid.score import Fid
from dualdiff_jax.evaluation.fid.statistics import Moments, Statistics, read_statistics, write_statistics
from dualdiff_jax.sharding import make_mesh
from tests.peers import fid_scorers
from tests.unit.evaluation.fid import narrow

pytestmark = pytest.mark.peers
SIZES = [(64, 64), (299, 299), (512, 333), (1024, 768), (30, 700)]
IMAGES = 24


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights that both torch networks load strictly."""
    return narrow.write(tmp_path_factory.mktemp("weights") / "inception.pth", divisor=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of images: noise of several scales, and the same with other colours."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, tint in (("one", (255, 200, 120)), ("other", (90, 255, 220))):
        (root / name).mkdir()
        for number in range(IMAGES):
            side = int(rng.integers(2, 200))
            pixels = (rng.random((side, side + 7, 3)) * tint).astype(np.uint8)
            size = (128, 128) if name == "one" else (int(rng.integers(70, 400)), 150)
            Image.fromarray(pixels).resize(size).save(root / name / f"{number:03d}.png")
    return root


def images(size: tuple[int, int], count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def ours(weights, name: str, pixels: np.ndarray) -> np.ndarray:
    network = FeatureNetwork(read_weights(weights), make_mesh(MeshConfig(layout="replicated"), jax.devices()[:1]))
    return np.asarray(network(np.stack([RESIZES[name](image) for image in pixels])))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert expected.std() > 0.1 * np.abs(expected).mean() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES[:3])
def test_features_are_torch_fidelitys(weights, size):
    pixels = images(size)
    with torch.no_grad():
        theirs = fid_scorers.torch_fidelity_network(weights)(torch.tensor(pixels).permute(0, 3, 1, 2)).numpy()
    assert_close(ours(weights, "torch-fidelity", pixels), theirs)


@pytest.mark.parametrize("size", SIZES[:3])
def test_features_are_pytorch_fids(weights, size):
    pixels = images(size)
    _, network = fid_scorers.pytorch_fid(weights)
    with torch.no_grad():
        theirs = network(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)[0][:, :, 0, 0].numpy()
    assert_close(ours(weights, "pytorch-fid", pixels), theirs)


@pytest.mark.parametrize("size", SIZES)
def test_tensorflows_resize_is_exact(size):
    (pixels,) = images(size, 1)
    theirs = fid_scorers.tensorflow_resize()(
        torch.tensor(pixels).permute(2, 0, 1)[None].float(), size=(299, 299), align_corners=False
    )
    np.testing.assert_array_equal(RESIZES["torch-fidelity"](pixels), ((theirs[0] - 128) / 128).permute(1, 2, 0))


@pytest.mark.parametrize("size", SIZES)
def test_clean_fids_resize_is_exact(size):
    (pixels,) = images(size, 1)
    np.testing.assert_array_equal(
        RESIZES["clean-fid"](pixels), (fid_scorers.clean_fid_resize()(pixels) - 128) / np.float32(128)
    )


def test_distances_are_pytorch_fids():
    score, _ = fid_scorers.pytorch_fid()
    rng = np.random.default_rng(2)
    for size, count in ((64, 500), (256, 1000), (64, 65)):
        statistics = []
        for _ in range(2):
            moments = Moments(size)
            moments.update(rng.standard_normal((count, size)) @ rng.standard_normal((size, size)) + rng.random(size))
            statistics.append(moments.statistics())
        one, other = statistics
        theirs = score.calculate_frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
        assert frechet_distance(one, other) == pytest.approx(theirs, rel=1e-6)


def test_statistics_pass_between_the_programs(tmp_path):
    score, _ = fid_scorers.pytorch_fid()
    rng = np.random.default_rng(3)
    factor = rng.standard_normal((2048, 2048)) / 45
    statistics = Statistics(rng.random(2048), factor @ factor.T, 4000, "clean-fid", "0" * 64)
    write_statistics(tmp_path / "ours.npz", statistics)
    mean, covariance = score.compute_statistics_of_path(str(tmp_path / "ours.npz"), None, 1, 2048, "cpu")
    np.testing.assert_array_equal(mean, statistics.mean)
    np.savez_compressed(tmp_path / "theirs.npz", mu=mean, sigma=covariance)  # as its save_fid_stats
    np.testing.assert_array_equal(read_statistics(tmp_path / "theirs.npz", 2048).covariance, statistics.covariance)


def test_a_folders_fid_is_pytorch_fids(weights, folders, monkeypatch):
    """End to end, from files to the distance; with fewer images than features, so that the root needs care."""
    score, network = fid_scorers.pytorch_fid(weights)
    theirs = [  # one image a batch, since theirs have one size
        score.compute_statistics_of_path(str(folders / name), network, 1, 2048, "cpu", num_workers=0)
        for name in ("one", "other")
    ]
    monkeypatch.setattr(features, "ROWS", 8)
    found = Fid(folders / "one", folders / "other", weights, "pytorch-fid").score()
    for statistics, (mean, covariance) in zip((found.images, found.reference), theirs, strict=True):
        np.testing.assert_allclose(statistics.mean, mean, rtol=1e-4, atol=1e-5 * np.abs(mean).max())
        np.testing.assert_allclose(statistics.covariance, covariance, rtol=1e-3, atol=1e-5 * np.abs(covariance).max())
    # The distance over the span of all features, where pytorch-fid's root of the product is well defined.
    spans = [np.linalg.eigh(covariance)[1][:, -IMAGES + 1 :] for _, covariance in theirs]
    basis = np.linalg.qr(np.concatenate(spans, axis=1))[0]
    (m1, c1), (m2, c2) = [(mean @ basis, basis.T @ covariance @ basis) for mean, covariance in theirs]
    outside = ((theirs[0][0] - theirs[1][0]) ** 2).sum() - ((m1 - m2) ** 2).sum()
    expected = score.calculate_frechet_distance(m1, c1, m2, c2) + outside
    assert found.distance == pytest.approx(expected, rel=1e-4)
