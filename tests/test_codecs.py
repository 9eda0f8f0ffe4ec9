import json
import os
import pickle
import subprocess
import sys

import pytest
import torch

from blurlib import metrics
from blurlib.codec import zoo
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, Sampling
from blurlib.evaluation import codecs
from blurlib.evaluation.codecs import BASELINES, HEIC, JPEG, JPEG_2000, JPEG_XL, WEBP, select
from stand_ins import DENOISER

ALL = (*BASELINES, JPEG_2000, JPEG_XL, HEIC)
HIGH = {JPEG_2000.name: 8.0}  # bits per pixel; elsewhere 90 of 100


@pytest.fixture(params=ALL, ids=lambda codec: codec.name)
def codec(request):
    """Each of them that is installed."""
    try:
        request.param.prepare()
    except codecs.MissingCodecError as error:
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
def test_odd_sizes_and_the_order_of_colours(codec, crop, size):
    for colour in ((100, 100, 100), (220, 30, 20), (20, 200, 40)):
        image = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, *size)
        decoded = codec.decode(codec.encode(image, HIGH.get(codec.name, 90)))
        assert (decoded.dtype, decoded.shape) == (torch.uint8, image.shape)
        assert (decoded.int() - image.int()).abs().max() <= 8
    if min(size) > 16:
        image = crop[:, : size[0], : size[1]]  # not contiguous, as crops are
        decoded = codec.decode(codec.encode(image, HIGH.get(codec.name, 90)))
        assert metrics.psnr(image, decoded) > 30


def test_files_are_of_their_format_and_the_same_bytes_after_pickling(codec, crop):
    data = codec.encode(crop, HIGH.get(codec.name, 60))
    assert {
        "jpeg": data[:2] == b"\xff\xd8",
        "webp": data[8:16] == b"WEBPVP8 ",  # lossy, no alpha, no metadata
        "avif": data[4:12] == b"ftypavif",
        "jpeg2000": data[:4] == b"\xff\x4f\xff\x51",  # SOC, SIZ: no boxes before
        "jpegxl": data[:2] == b"\xff\x0a",  # a codestream
        "heic": data[4:12] == b"ftypheic",
    }[codec.name]
    copy = pickle.loads(pickle.dumps(codec))
    assert copy.encode(crop, HIGH.get(codec.name, 60)) == data
    assert copy == codec
    assert torch.equal(copy.decode(data), codec.decode(data))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_same_bytes_on_one_core(crop, tmp_path):
    """The number of cores at hand must not change a file."""
    work = [(c, HIGH.get(c.name, 60)) for c in ALL if codecs.available()[c.name] is None]
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
    assert codec.options.items() <= codec.settings.items()
    settings = dict(codec.settings)
    assert json.loads(json.dumps(settings)) == settings
    for kind in ("library", "package"):
        assert any(part[0].isdigit() for part in settings[kind].split()), settings[kind]


def test_jpeg2000_is_the_irreversible_codestream(crop):
    data = JPEG_2000.encode(crop, 1.0)
    style = data.index(b"\xff\x52")  # COD: marker, length (2), Scod (1), order, layers (2), mct
    assert data[style + 8] == 1  # multi-component transform
    assert data[style + 13] == 0  # wavelet: 0 is 9/7, irreversible
    assert len(data) == pytest.approx(crop[0].numel() / 8, rel=0.02)  # the rate asked for


@pytest.mark.parametrize(
    ("codec", "scale", "wrong"),
    [
        (JPEG, r"an integer in 1\.\.100", (0, 101, 50.5)),
        (JPEG_2000, "a target in bits per pixel", (0, -1, 24.1, float("nan"))),
        (JPEG_XL, r"an integer in 0\.\.99", (-1, 100, 50.5)),
        (HEIC, r"an integer in 0\.\.100", (-1, 101, 50.5)),
    ],
)
def test_quality_outside_the_scale_is_refused(codec, scale, wrong, crop):
    for quality in wrong:
        with pytest.raises(ValueError, match=f"{codec.name}: quality is {scale}"):
            codec.encode(crop, quality)


@pytest.mark.parametrize(("codec", "package"), [(JPEG_XL, "imagecodecs"), (HEIC, "pillow_heif")])
def test_a_missing_package_says_what_to_install(codec, package, crop, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    for attempt in (codec.prepare, lambda: codec.encode(crop, 50), lambda: select(codec.name)):
        with pytest.raises(codecs.MissingCodecError, match=f"^{codec.name}: .*{package}") as error:
            attempt()
        assert "pip install 'blurlib[baselines]'" in str(error.value)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(codecs.features, "check", lambda feature: feature != "jpg_2000")
    reasons = codecs.available()
    assert reasons[codec.name] == str(error.value)
    assert "jpeg2000: this pillow was built without" in reasons["jpeg2000"]
    assert reasons["jpeg"] is None


def test_match_bytes_is_the_best_of_all_qualities(crop):
    sizes = [len(JPEG.encode(crop, quality)) for quality in JPEG.scale]
    for target in (1500, 3000, 9000):
        match = codecs.match_bytes(JPEG, crop, target)
        assert match.fits
        assert len(match.data) == max(size for size in sizes if size <= target)
        assert match.data == JPEG.encode(crop, match.quality)
    out_of_reach = codecs.match_bytes(WEBP, crop, 10)
    assert (out_of_reach.fits, out_of_reach.quality) == (False, 0)
    assert codecs.match_bytes(WEBP, crop, 10**9).quality == 100


def test_an_unknown_name_lists_what_there_is():
    known = ["jpeg", "jpeg2000", "webp", "avif", "jpegxl", "heic", "jpeg-default", "webp-default"]
    assert list(codecs.available()) == known
    with pytest.raises(ValueError, match="no codec 'gif'") as error:
        select("gif")
    for name in (*known, "msssim-small"):
        assert name in str(error.value)


def test_each_decoder_on_top_has_a_results_file_of_its_own(tiny_codec, tiny_codec_path, tmp_path):
    denoiser, own = Denoiser(DENOISER), tiny_codec.model_id
    path = tmp_path / "denoiser.safetensors"
    names = {"tiny-direct": select(str(tiny_codec_path)).codec.settings}
    once = Sampling(1, start_scale=0.0)
    for sigma, how in ((0.0, once), (0.0, Sampling(2)), (5.0, Sampling(1))):
        process = BlurDiffusion(BlurSchedule(sigma_blur_max=sigma))
        path.write_bytes(zoo.decoder_bytes(DiffusionDecoder(denoiser, process, own, how)))
        chosen = select(str(tiny_codec_path), "diffusion", str(path), {"seed": 9})
        assert chosen.seed == 9
        names[chosen.codec.name] = chosen.codec.settings
        assert how == Sampling(chosen.codec.settings["steps"], start_scale=how.start_scale)
    assert [*names] == ["tiny-direct", "tiny-deterministic", "tiny-isotropic", "tiny-diffusion"]
    assert [of["decoder"] for of in names.values()] == ["direct"] + ["diffusion"] * 3
    with pytest.raises(ValueError, match="no decoder 'deterministic': there are direct and diff"):
        select(str(tiny_codec_path), "deterministic", str(path))
    other = DiffusionDecoder(denoiser, BlurDiffusion(BlurSchedule()), b"\1\2\3\4")
    path.write_bytes(zoo.decoder_bytes(other))
    with pytest.raises(ValueError, match=r"trained for codec 01020304, and .*tiny.* name the"):
        select(str(tiny_codec_path), "diffusion", str(path))
