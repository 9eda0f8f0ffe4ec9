import pytest
import torch

from blurlib import metrics
from blurlib.evaluation.baselines import AVIF, BASELINES, JPEG, WEBP, match_bytes


@pytest.fixture(scope="module")
def crop(astronaut):
    return astronaut[:, 40:200, 150:342].contiguous()


@pytest.mark.parametrize("codec", BASELINES, ids=lambda codec: codec.name)
def test_more_quality_is_more_bytes_and_less_error(codec, crop):
    files = [codec.encode(crop, quality) for quality in (10, 50, 90)]
    errors = [metrics.mse(crop, codec.decode(data)) for data in files]
    assert sorted(files, key=len) == files
    assert sorted(errors, reverse=True) == errors


@pytest.mark.parametrize("codec", BASELINES, ids=lambda codec: codec.name)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 5)])
def test_odd_sizes(codec, size):
    image = torch.full((3, *size), 100, dtype=torch.uint8)
    decoded = codec.decode(codec.encode(image, 80))
    assert decoded.shape == image.shape
    assert (decoded.int() - 100).abs().max() <= 3


def test_files_are_of_the_format(crop):
    assert JPEG.encode(crop, 50)[:2] == b"\xff\xd8"
    assert WEBP.encode(crop, 50)[8:16] == b"WEBPVP8 "  # lossy, no alpha, no metadata
    assert AVIF.encode(crop, 50)[4:12] == b"ftypavif"


def test_settings_name_options_and_library():
    assert WEBP.settings["method"] == 6
    assert JPEG.settings["subsampling"] == "4:2:0"
    assert AVIF.settings["speed"] == 6
    assert all(codec.settings["library"].split()[1][0].isdigit() for codec in BASELINES)


@pytest.mark.parametrize("quality", [0, 101, 50.5])
def test_quality_outside_the_scale_is_refused(crop, quality):
    with pytest.raises(ValueError, match=r"jpeg: quality is an integer in 1\.\.100"):
        JPEG.encode(crop, quality)


@pytest.mark.parametrize("target", [1500, 3000, 9000])
def test_match_bytes_is_the_best_of_all_qualities(crop, target):
    match = match_bytes(JPEG, crop, target)
    sizes = [len(JPEG.encode(crop, quality)) for quality in JPEG.qualities]
    assert match.fits
    assert len(match.data) == max(size for size in sizes if size <= target)
    assert match.data == JPEG.encode(crop, match.quality)


def test_match_bytes_out_of_reach(crop):
    match = match_bytes(WEBP, crop, 10)
    assert not match.fits
    assert match.quality == 0
    assert match_bytes(WEBP, crop, 10**9).quality == 100
