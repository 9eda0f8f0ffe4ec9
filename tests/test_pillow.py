"""`import blurlib` for people with a Pillow image."""

import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import blurlib
from blurlib import checkpoints, datasets, images
from blurlib.codec import zoo


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return images.to_pillow(datasets.embedded("coffee")[:, :96, :128])


@pytest.fixture
def registered():
    """Pillow with our format; without it again afterwards."""
    Image.init()  # all of its own formats, so that none is lost
    before = (Image.ID.copy(), Image.OPEN.copy(), Image.SAVE.copy(), Image.EXTENSION.copy())
    blurlib.register_pillow()
    yield
    Image.ID[:] = before[0]
    for now, then in zip((Image.OPEN, Image.SAVE, Image.EXTENSION), before[1:], strict=True):
        now.clear()
        now.update(then)


def test_there_and_back_is_what_the_codec_does(picture):
    data = blurlib.compress(picture, quality=2.5, seed=3)
    codec = blurlib.load("msssim-small")
    x = images.to_float(images.from_pillow(picture))[None]
    assert data == codec.compress(x, 2.5, seed=3)
    decoded = blurlib.decompress(data)
    assert (decoded.mode, decoded.size) == ("RGB", (128, 96))
    expected = images.to_uint8(codec.decompress(data).x_hat[0]).permute(1, 2, 0)
    assert np.array_equal(np.asarray(decoded), expected)


def test_the_perceptual_decode_is_what_the_decoder_does(picture):
    data = blurlib.compress(picture, 2, model=checkpoints.PERCEPTUAL)
    decoded = blurlib.decompress(data, decoder="diffusion", steps=2, seed=5)
    output = blurlib.load(checkpoints.PERCEPTUAL).decompress(data)
    *_, last = zoo.load_denoiser("isotropic-small").sample(output, steps=2, seed=5)
    assert np.array_equal(np.asarray(decoded), images.to_uint8(last.x_hat[0]).permute(1, 2, 0))
    with pytest.raises(ValueError, match=f"for files of the model {checkpoints.PERCEPTUAL}"):
        blurlib.decompress(blurlib.compress(picture, 2), decoder="diffusion")


def test_arrays_and_other_modes(picture):
    data = blurlib.compress(picture, 2)
    assert blurlib.compress(np.asarray(picture), 2) == data
    assert blurlib.compress(images.from_pillow(picture), 2) == data
    grey = picture.convert("L")
    assert blurlib.compress(grey, 2) == blurlib.compress(grey.convert("RGB"), 2)
    with pytest.raises(ValueError, match="transparent"):
        blurlib.compress(Image.new("RGBA", (8, 8)), 2)


@pytest.mark.parametrize("wrong", [torch.zeros(8, 8).byte(), np.zeros((8, 8, 3)), "photo.png"])
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be a Pillow image, 8-bit RGB, \(H, W, 3\)"):
        blurlib.compress(wrong)


@pytest.mark.parametrize("wrong", ["photo.blur", 8, None, io.BytesIO()])
def test_what_is_no_file_is_refused(wrong):
    with pytest.raises(ValueError, match=r"data is a .*: it must be the bytes of a \.blur file"):
        blurlib.decompress(wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"effort": 1.0}, "effort is 1.0"), ({"quality": 2, "target_bpp": 1}, "exclude each other")],
)
def test_arguments_that_cannot_be_are_named(picture, wrong, words):
    with pytest.raises(ValueError, match=words):
        blurlib.compress(picture, **wrong)


def test_options_that_do_nothing_are_refused(picture):
    data = blurlib.compress(picture, 1)
    with pytest.raises(ValueError, match="steps is for decoder 'diffusion'"):
        blurlib.decompress(data, steps=4)
    with pytest.raises(ValueError, match="denoiser is for decoder 'diffusion'"):
        blurlib.decompress(data, denoiser="isotropic-small")
    with pytest.raises(ValueError, match="must be 'direct' or 'diffusion'"):
        blurlib.decompress(data, decoder="fast")


def test_a_format_of_pillow(picture, tmp_path, registered):
    path = tmp_path / "photo.blur"
    picture.save(path, quality=2.5)
    assert path.read_bytes() == blurlib.compress(picture, 2.5)
    with Image.open(path) as opened:
        assert (opened.format, opened.mode, opened.size) == ("BLUR", "RGB", (128, 96))
        assert np.array_equal(np.asarray(opened), np.asarray(blurlib.decompress(path.read_bytes())))
        assert opened.crop((0, 0, 10, 20)).size == (10, 20)
        assert opened.fp.closed  # though it is still at hand
        assert np.array_equal(pickle.loads(pickle.dumps(opened)), opened)
    with io.BytesIO() as buffer:
        picture.save(buffer, "BLUR", target_bpp=1.0)
        assert 8 * len(buffer.getvalue()) <= 128 * 96
    data = blurlib.compress(picture, target_bpp=0.8, model="mse-small")
    assert 0.6 < 8 * len(data) / (96 * 128) <= 0.8


def test_weights_in_a_file_are_those_it_has_now(picture, tmp_path):
    path = str(tmp_path / "m.safetensors")
    for name in ("msssim-small", "mse-small"):
        shutil.copy(zoo.CHECKPOINTS / f"{name}.safetensors", path)
        assert blurlib.compress(picture, 2, model=path) == blurlib.compress(picture, 2, model=name)


def test_damaged_files_are_refused_as_pillow_does(picture, tmp_path, registered):
    data = bytearray(blurlib.compress(picture, 2))
    data[-5] ^= 1
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(data))
    path = tmp_path / "p.blur"
    with pytest.raises(ValueError, match="quality is 9"):
        picture.save(path, quality=9)
    assert not path.exists()


# The package


def test_a_clone_that_was_never_installed_can_be_imported(tmp_path):
    root = Path(blurlib.__file__).parents[1]
    code = "import blurlib, sys; print(blurlib.__version__, 'torch' in sys.modules)"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.split() == [blurlib.__version__, "False"]
    assert {"compress", "decompress", "load", "register_pillow"} <= set(dir(blurlib))
    with pytest.raises(AttributeError, match="no attribute 'decode'"):
        blurlib.decode  # noqa: B018


@pytest.mark.slow
def test_an_import_changes_no_warnings_and_leaves_heavy_libraries_out():
    code = (
        "import warnings, torch, scipy.special; before = list(warnings.filters); "
        "from blurlib.codec import zoo; import sys; "
        "print(warnings.filters == before, [m for m in ('compressai', 'torchvision', 'lpips', "
        "'pandas', 'matplotlib') if m in sys.modules]); import blurlib.evaluation.codecs; "
        "print([m for m in ('imagecodecs', 'pillow_heif', 'compressai') if m in sys.modules])"
    )
    result = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert result.splitlines() == ["True []", "[]"]
