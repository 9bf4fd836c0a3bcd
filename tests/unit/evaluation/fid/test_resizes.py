"""Each resize is that of its scorer."""

import numpy as np
import pytest
import torch

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.fid.resizes import RESIZES, resize_of

SIZES = [(64, 64), (299, 299), (512, 333), (30, 700), (2, 3)]


def pixels(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_flat_image_stays_flat(name, level):
    found = resize_of(name)(np.full((40, 50, 3), level, np.uint8))
    expected = level / 127.5 - 1 if name == "pytorch-fid" else (level - 128) / 128
    np.testing.assert_allclose(found, np.full((299, 299, 3), expected, np.float32), rtol=0, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("size", SIZES)
def test_pytorch_fid_interpolates_as_torch_does(size):
    image = pixels(size)
    theirs = torch.tensor(image).permute(2, 0, 1)[None] / 255
    theirs = 2 * torch.nn.functional.interpolate(theirs, (299, 299), mode="bilinear", align_corners=False) - 1
    np.testing.assert_allclose(RESIZES["pytorch-fid"](image), theirs[0].permute(1, 2, 0), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
def test_torch_fidelity_reads_where_tensorflow_1_reads(size):
    """At i * scale, without the half pixel, and from the last pixel behind the last."""
    image = pixels(size)
    rows, columns = (np.arange(299) * side / 299 for side in size)
    below, right = (
        np.minimum(places.astype(int) + 1, side - 1) for places, side in zip((rows, columns), size, strict=True)
    )
    down, across = (places % 1 for places in (rows, columns))
    values = image.astype(np.float64)
    wide = values[:, columns.astype(int)] * (1 - across)[:, None] + values[:, right] * across[:, None]
    expected = wide[rows.astype(int)] * (1 - down)[:, None, None] + wide[below] * down[:, None, None]
    np.testing.assert_allclose(RESIZES["torch-fidelity"](image), (expected - 128) / 128, rtol=0, atol=2e-4)


def test_clean_fid_alone_does_not_alias():
    """Stripes one pixel wide, at twice the size: their mean is grey, while two of four pixels may all be white."""
    stripes = np.zeros((598, 598, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = slice(10, -10)
    deviation = {name: np.abs(resize(stripes)[inner, inner]).max() for name, resize in RESIZES.items()}
    assert deviation["clean-fid"] < 0.05
    assert deviation["torch-fidelity"] > 0.9


def test_clean_fid_is_clipped_and_not_rounded():
    edge = np.zeros((20, 20, 3), np.uint8)
    edge[:, 10:] = 255
    found = RESIZES["clean-fid"](edge) * 128 + 128
    assert found.min() == 0 and found.max() == 255  # Keys' kernel goes beyond both
    assert np.abs(found - np.round(found)).max() > 0.1


def test_an_unknown_resize_is_refused():
    with pytest.raises(UserError, match="there is no resize 'bicubic'; choose one of torch-fidelity, clean-fid"):
        resize_of("bicubic")
