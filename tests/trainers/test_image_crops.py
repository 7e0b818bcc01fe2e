"""What is cut out of images: upsampled, cropped, mirrored and whitened as ZL17 says, and as other libraries do."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nasrepro.datasets import ImageSet
from nasrepro.trainers import images
from nasrepro.trainers.images import Crops, shown_crops, train
from tests.trainers.killable_images import NET, TINY
from tests.trainers.small_images import random_images


@pytest.mark.parametrize(("channels", "height", "width", "side"), [(3, 8, 8, 10), (1, 5, 7, 7), (3, 6, 6, 6)])
def test_a_cut_is_the_crop_of_each_image_upsampled_whitened_and_mirrored_by_itself(
    channels: int, height: int, width: int, side: int
) -> None:
    pixels = random_images(12, channels, height, width)
    crops = Crops(pixels, side, "cpu")
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(12, (20,), generator=generator)
    top = torch.randint(side - height + 1, (20,), generator=generator)
    left = torch.randint(side - width + 1, (20,), generator=generator)
    mirrored = torch.randint(2, (20,), generator=generator)
    found = crops.cut(rows, top, left, mirrored)
    assert found.shape == (20, channels, height, width)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for number, (row, y, x, flip) in enumerate(zip(rows, top, left, mirrored, strict=True)):
        image = pixels[row].float()
        large = F.interpolate(image[None], (side, side), mode="bilinear", align_corners=False)[0].round()
        crop = large[:, y : y + height, x : x + width]
        expected = ((crop.flip(-1) if flip else crop) - image.mean()) / image.std(correction=0)
        torch.testing.assert_close(found[number], expected)


def test_images_of_their_own_size_are_not_interpolated() -> None:
    pixels = random_images(5)
    assert torch.equal(Crops(pixels, 8, "cpu").pixels.permute(0, 3, 1, 2), pixels)


def test_many_images_are_upsampled_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_images(7)
    whole = Crops(pixels, 11, "cpu")
    monkeypatch.setattr(images, "_EVALUATED", 3)
    parts = Crops(pixels, 11, "cpu")
    assert torch.equal(whole.pixels, parts.pixels)
    torch.testing.assert_close(whole.mean, parts.mean)
    torch.testing.assert_close(whole.scale, parts.scale)


def test_images_are_not_cut_out_of_smaller_ones(digits: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="upsampled=7 is less than the 8 x 8 pixels of the images"):
        train(NET, digits, replace(TINY, upsampled=7), checkpoint=tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_whitening_is_tensorflows() -> None:
    """(x - mean) / max(deviation, 1 / sqrt(number of values)), as tf.image.per_image_standardization documents it."""
    pixels = random_images(4)
    pixels[1] = 77
    pixels[2] = 200
    pixels[2, 0, 3, 4] = 201  # its deviation is just the bound
    pixels[3, 0, 0, :2] = 0
    found = Crops(pixels, 8, "cpu").shown(0, 4, "image").numpy()
    values = pixels.numpy().astype(float)
    for one, whitened in zip(values, found, strict=True):
        adjusted = max(one.std(), 1 / math.sqrt(one.size))
        np.testing.assert_allclose(whitened, (one - one.mean()) / adjusted, atol=2e-3 if one.std() < 1 else 1e-5)
    for whitened in found[[0, 3]]:
        assert whitened.mean() == pytest.approx(0, abs=1e-5)
        assert whitened.std() == pytest.approx(1, abs=1e-5)
    assert (found[1] == 0).all()


def test_a_trained_network_is_shown_the_image_or_the_middle_or_the_whole_of_the_larger_one() -> None:
    pixels = random_images(3)
    mean, deviation = (getattr(pixels.float(), name)((1, 2, 3), keepdim=True) for name in ("mean", "std"))
    deviation *= math.sqrt((192 - 1) / 192)  # as a population's
    large = F.interpolate(pixels.float(), (12, 12), mode="bilinear").round()
    expected = {"image": pixels.float(), "crop": large[:, :, 2:10, 2:10], "whole": large}
    for on, cut in expected.items():
        settings = replace(TINY, upsampled=12, evaluated_on=on)
        found = shown_crops(pixels, settings, "cpu").shown(0, 3, on)
        torch.testing.assert_close(found, (cut - mean) / deviation)
