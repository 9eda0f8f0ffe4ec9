import json
import os
import pickle
import subprocess
import sys

import pytest
import torch

from blurlib import metrics
from blurlib.evaluation import baselines
from blurlib.evaluation.baselines import (
    AVIF,
    BASELINES,
    HEIC,
    JPEG,
    JPEG_2000,
    JPEG_XL,
    WEBP,
    MissingCodecError,
    match_bytes,
)
from blurlib.evaluation.selection import available

ALL = (*BASELINES, JPEG_2000, JPEG_XL, HEIC)
HIGH = {JPEG_2000.name: 8.0}  # bits per pixel; elsewhere 90 of 100


@pytest.fixture(params=ALL, ids=lambda codec: codec.name)
def codec(request):
    """Each of them that is installed."""
    try:
        request.param.prepare()
    except MissingCodecError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def crop(astronaut):
    return astronaut[:, 40:200, 150:342].contiguous()


def test_more_quality_is_more_bytes_and_less_error(codec, crop):
    scale = (0.2, 1, 8) if codec is JPEG_2000 else (10, 50, 90)
    files = [codec.encode(crop, quality) for quality in scale]
    errors = [metrics.mse(crop, codec.decode(data)) for data in files]
    assert sorted(files, key=len) == files
    assert len(files[0]) < len(files[1]) < len(files[2])
    assert sorted(errors, reverse=True) == errors
    assert metrics.psnr(crop, codec.decode(files[2])) > 33


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 5), (17, 33), (64, 48)])
def test_odd_sizes(codec, size):
    image = torch.full((3, *size), 100, dtype=torch.uint8)
    decoded = codec.decode(codec.encode(image, HIGH.get(codec.name, 80)))
    assert decoded.dtype == torch.uint8
    assert decoded.shape == image.shape
    assert (decoded.int() - 100).abs().max() <= 3


@pytest.mark.parametrize("size", [(17, 33), (64, 48)])
def test_odd_sizes_of_a_photo_keep_their_place(codec, crop, size):
    image = crop[:, : size[0], : size[1]]  # not contiguous, as crops are
    decoded = codec.decode(codec.encode(image, HIGH.get(codec.name, 90)))
    assert metrics.psnr(image, decoded) > 30


@pytest.mark.parametrize("colour", [(220, 30, 20), (20, 200, 40), (30, 20, 210)])
def test_colours_keep_their_order(codec, colour):
    image = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 32, 40)
    decoded = codec.decode(codec.encode(image, HIGH.get(codec.name, 90)))
    assert (decoded.int() - image.int()).abs().max() <= 8


def test_same_bytes_again_also_after_pickling(codec, crop):
    data = codec.encode(crop, HIGH.get(codec.name, 60))
    copy = pickle.loads(pickle.dumps(codec))
    assert copy.encode(crop, HIGH.get(codec.name, 60)) == data
    assert copy == codec
    assert torch.equal(copy.decode(data), codec.decode(data))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_same_bytes_on_one_core(crop, tmp_path):
    """The number of cores at hand must not change a file."""
    work = [(c, HIGH.get(c.name, 60)) for c in ALL if available()[c.name] is None]
    torch.save((work, crop), tmp_path / "work.pt")
    code = (
        "import os, pickle, sys, torch; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        f"work, crop = torch.load({str(tmp_path / 'work.pt')!r}, weights_only=False);"
        "sys.stdout.buffer.write(pickle.dumps([c.encode(crop, quality) for c, quality in work]))"
    )
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert pickle.loads(alone.stdout) == [codec.encode(crop, quality) for codec, quality in work]


def test_settings_survive_json(codec):
    """A results file holds them as JSON, and is compared with them when a run goes on."""
    settings = dict(codec.settings)
    assert json.loads(json.dumps(settings)) == settings
    for kind in ("library", "package"):
        assert any(part[0].isdigit() for part in settings[kind].split()), settings[kind]


def test_files_are_of_the_format(crop):
    assert JPEG.encode(crop, 50)[:2] == b"\xff\xd8"
    assert WEBP.encode(crop, 50)[8:16] == b"WEBPVP8 "  # lossy, no alpha, no metadata
    assert AVIF.encode(crop, 50)[4:12] == b"ftypavif"


def test_jpeg2000_is_the_irreversible_codestream(crop):
    data = JPEG_2000.encode(crop, 1.0)
    assert data[:4] == b"\xff\x4f\xff\x51"  # SOC, SIZ: no boxes before
    style = data.index(b"\xff\x52")  # COD: marker, length (2), Scod (1), order, layers (2), mct
    assert data[style + 8] == 1  # multi-component transform
    assert data[style + 13] == 0  # wavelet: 0 is 9/7, irreversible
    assert len(data) == pytest.approx(crop[0].numel() / 8, rel=0.02)  # the rate asked for


def test_jpegxl_is_a_lossy_codestream(crop):
    pytest.importorskip("imagecodecs")
    assert JPEG_XL.encode(crop, 50)[:2] == b"\xff\x0a"


def test_heic_is_hevc(crop):
    pytest.importorskip("pillow_heif")
    assert HEIC.encode(crop, 50)[4:12] == b"ftypheic"


def test_settings_name_options_and_library():
    assert WEBP.settings["method"] == 6
    assert JPEG.settings["subsampling"] == "4:2:0"
    assert AVIF.settings["speed"] == 6
    assert JPEG_2000.settings["irreversible"]
    assert all(codec.settings["library"].split()[1][0].isdigit() for codec in BASELINES)


def test_settings_of_heic_name_the_encoder():
    pytest.importorskip("pillow_heif")
    assert "x265" in HEIC.settings["encoder"]
    assert (HEIC.settings["preset"], HEIC.settings["chroma"]) == ("slow", 420)


@pytest.mark.parametrize("quality", [0, 101, 50.5])
def test_quality_outside_the_scale_is_refused(crop, quality):
    with pytest.raises(ValueError, match=r"jpeg: quality is an integer in 1\.\.100"):
        JPEG.encode(crop, quality)


@pytest.mark.parametrize("quality", [0, -1, 24.1, float("nan")])
def test_jpeg2000_rate_outside_the_scale_is_refused(crop, quality):
    with pytest.raises(ValueError, match="jpeg2000: quality is a target in bits per pixel"):
        JPEG_2000.encode(crop, quality)


@pytest.mark.parametrize(("codec", "scale"), [(JPEG_XL, r"0\.\.99"), (HEIC, r"0\.\.100")])
@pytest.mark.parametrize("quality", [-1, 101, 50.5])
def test_other_scales_are_named(codec, scale, quality, crop):
    with pytest.raises(ValueError, match=f"{codec.name}: quality is an integer in {scale}"):
        codec.encode(crop, quality)


@pytest.mark.parametrize(("codec", "package"), [(JPEG_XL, "imagecodecs"), (HEIC, "pillow_heif")])
def test_missing_package_says_what_to_install(codec, package, crop, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    for attempt in (codec.prepare, lambda: codec.encode(crop, 50), lambda: codec.settings):
        with pytest.raises(MissingCodecError) as error:
            attempt()
        message = str(error.value)
        assert message.startswith(f"{codec.name}: ")
        assert package in message
        assert "pip install 'blurlib[baselines]'" in message
        assert "\n" not in message


def test_pillow_without_the_library_is_missing(monkeypatch):
    monkeypatch.setattr(baselines.features, "check", lambda feature: feature != "jpg_2000")
    JPEG.prepare()
    with pytest.raises(MissingCodecError, match="jpeg2000: this Pillow was built without"):
        JPEG_2000.prepare()


@pytest.mark.slow
def test_optional_packages_are_imported_only_when_used():
    code = (
        "import sys, blurlib.evaluation.baselines;"
        "print([m for m in ('imagecodecs', 'pillow_heif', 'compressai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
