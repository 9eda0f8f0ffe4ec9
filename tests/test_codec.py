"""Photo to `.blur` and back: what `forward` says is what a decoder gets."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from blurlib.codec import BlurCodec, CodecConfig, zoo
from blurlib.codec.bitstream import BitstreamError, BlurFile
from blurlib.codec.inspection import describe
from blurlib.codec.model import pad, snap_psnr
from blurlib.codec.transforms import Reconstruction
from blurlib.entropy import strips
from stand_ins import ENTROPY

SIZES = [(1, 1), (1, 130), (130, 1), (63, 129), (64, 64), (65, 64), (128, 96)]


@pytest.fixture(scope="module")
def file(tiny_codec, photo) -> BlurFile:
    """A file of 70 × 50 pixels, parsed."""
    return BlurFile.from_bytes(tiny_codec.compress(photo(50, 70), 2.5))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", [1, 2.9981, 3])
def test_decompress_repeats_forward_bit_for_bit(tiny_codec, photo, size, quality):
    x = photo(*size)
    data = tiny_codec.compress(x, quality)
    decoded, forward = tiny_codec.decompress(data), tiny_codec(x, quality)
    assert torch.equal(decoded.y_hat, forward.y_hat)
    levels = (255 * x).byte()
    assert torch.equal(tiny_codec(levels, quality).y_hat, tiny_codec(levels / 255, quality).y_hat)
    assert torch.equal(decoded.x_hat, forward.x_hat)
    assert decoded.x_hat.shape == x.shape
    assert decoded.size == forward.size == size
    for a, b in zip(decoded.reconstruction.pyramid, forward.reconstruction.pyramid, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(decoded.latent.z_symbols, forward.latent.z_symbols)
    assert BlurFile.from_bytes(data).quality == round(quality * 256) / 256
    if size == (128, 96) and quality > 1:  # loud enough for this to mean something
        assert len(decoded.latent.z_symbols.unique()) > 5
        assert all(len(coded.residual.unique()) > 5 for coded in decoded.latent.passes)
    estimate = forward.estimated_bits.item() / 8
    streams = len(data) - 29
    assert streams == pytest.approx(estimate, rel=0.01, abs=64)
    assert decoded.estimated_bits.item() == forward.estimated_bits.item()


@torch.inference_mode()
def test_a_file_says_how_close_its_direct_reconstruction_is(tiny_codec, photo):
    """In quarters of a decibel, as `forward` does of every photo of a batch."""
    x = torch.cat([photo(70, 90), photo(70, 180)[..., 90:]])
    batch = tiny_codec(x, 2.5)
    for i, own in enumerate(x):
        for data in (tiny_codec.compress(own[None], 2.5, effort=0, seed=i),
                     tiny_codec.compress_to(own[None], 9.0, effort=0)):  # fmt: skip
            decoded = tiny_codec.decompress(data)
            exact = -10 * (decoded.x_hat - own).double().square().mean().log10().item()
            assert decoded.psnr.tolist() == [BlurFile.from_bytes(data).psnr]
            assert decoded.psnr.item() == round(4 * exact) / 4 != 0.25
            assert describe(BlurFile.from_bytes(data), passes=False)["psnr"] == decoded.psnr.item()
        assert batch.psnr[i] == tiny_codec(own[None], 2.5).psnr.item()
    without = dataclasses.replace(BlurFile.from_bytes(data), psnr=None)
    assert tiny_codec.decompress(without).psnr is None
    assert snap_psnr(torch.tensor([0.0, 1e-3, 5.0])).tolist() == [63.75, 30.0, 0.25]


@torch.no_grad()
@pytest.mark.parametrize("across", [False, True])
def test_strips_make_the_same_file_and_the_same_picture(tiny_codec, photo, monkeypatch, across):
    """Of 8-bit pixels too, whose strips alone become floats."""
    x = photo(505, 130).repeat(1, 1, 2, 1)
    x = x.mT.contiguous() if across else x
    data = tiny_codec.compress(x, 2.5)
    whole = tiny_codec.decompress(data)
    monkeypatch.setattr(strips, "VALUES", 1000)
    assert tiny_codec.compress(x.mul(255).round().to(torch.uint8), 2.5) == data
    decoded = tiny_codec.decompress(data)
    assert torch.equal(decoded.x_hat, whole.x_hat)
    for a, b in zip(decoded.reconstruction.pyramid, whole.reconstruction.pyramid, strict=True):
        assert torch.equal(a, b)
    assert tiny_codec.decompress(data, pyramid=False).reconstruction.pyramid == ()


@torch.inference_mode()
def test_a_batch_is_its_photos(tiny_codec, photo):
    x = torch.cat([photo(64, 96), photo(64, 192)[..., 96:]])
    together = tiny_codec(x, torch.tensor([1.5, 3.0]))
    for i, quality in enumerate((1.5, 3.0)):
        alone = tiny_codec(x[i : i + 1], quality)
        assert torch.equal(alone.y_hat[0], together.y_hat[i])
        torch.testing.assert_close(alone.estimated_bits[0], together.estimated_bits[i])


def test_memory_format_and_gradient_mode_do_not_change_a_symbol(tiny_codec_path, photo):
    codec, x = zoo.load(tiny_codec_path), photo(64, 128)  # one of its own, to convert
    gradient = codec(x, 2).y_hat.detach()
    with torch.inference_mode():
        y_hat = codec(x, 2).y_hat
        last = codec(x.to(memory_format=torch.channels_last), 2).y_hat
    assert torch.equal(y_hat, gradient)
    data = codec.compress(x, 2)
    codec.to(memory_format=torch.channels_last)
    assert torch.equal(codec.decompress(data).y_hat, y_hat)
    assert (last - y_hat).abs().max() <= 1  # the encoder's own rounding may differ


@pytest.mark.parametrize("size", SIZES)
def test_padding_repeats_the_border(photo, size):
    x = photo(*size)
    padded = pad(x)
    assert padded.shape[-2] % 64 == padded.shape[-1] % 64 == 0
    assert all(p - n < 64 for p, n in zip(padded.shape[-2:], size, strict=True))
    widths = ((0, 0), (0, 0), (0, padded.shape[2] - size[0]), (0, padded.shape[3] - size[1]))
    assert np.array_equal(padded.numpy(), np.pad(x.numpy(), widths, mode="edge"))


@pytest.mark.parametrize("quality", [0, 0.999, 3.001, -1, math.nan, math.inf])
def test_quality_out_of_range_is_refused(tiny_codec, photo, quality):
    with pytest.raises(ValueError, match=r"quality is .*: it must be a number from 1 to 3"):
        tiny_codec.compress(photo(8, 8), quality)
    with pytest.raises(ValueError, match=r"quality is .*: it must be a number from 1 to 3"):
        tiny_codec(photo(8, 8), quality)


@pytest.mark.slow
def test_a_target_is_never_exceeded_and_nearly_met(tiny_codec, photo):
    x = photo(64, 64)
    sizes = [8 * len(tiny_codec.compress(x, q)) / 64**2 for q in (1, 2, 3)]
    assert sizes == sorted(sizes)
    smallest, _, largest = sizes
    for target in (smallest, smallest * 1.01, (smallest + largest) / 2, largest * 0.999):
        reached = 8 * len(tiny_codec.compress_to(x, target)) / 64**2
        assert target * 0.97 <= reached <= target
    assert 8 * len(tiny_codec.compress_to(x, 1e9)) / 64**2 == largest
    seeded = tiny_codec.compress_to(x, largest, seed=5)
    assert BlurFile.from_bytes(seeded).seed == 5
    assert 8 * len(seeded) / 64**2 <= largest


@pytest.mark.parametrize("target", [0, -1, 0.01, math.nan])
def test_a_target_below_the_lowest_quality_is_refused(tiny_codec, photo, target):
    with pytest.raises(ValueError, match=r"target is .* bpp: this photo takes .* at quality 1"):
        tiny_codec.compress_to(photo(16, 16), target)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 8, 8), r"x has shape .*: it must be one photo, \(1, 3, H, W\)"),
        (torch.zeros(2, 3, 8, 8), "it must be one photo"),
        (torch.zeros(1, 4, 8, 8), "it must be one photo"),
        (torch.zeros(1, 3, 0, 8), "sides from 1 to 65535"),
        (torch.full((1, 3, 8, 8), math.nan), r"x is from nan to nan: it must be in \[0, 1\]"),
        (torch.linspace(0, 255, 192).view(1, 3, 8, 8), r"x is from 0 to 255.*images.to_float"),
        (torch.linspace(-1, 1, 192).view(1, 3, 8, 8), "x is from -1 to 1"),
        (torch.zeros(1, 3, 8, 8).double(), "x is torch.float64 on cpu.*torch.float32 on cpu"),
        (np.zeros((1, 3, 8, 8)), "x is a ndarray: it must be a tensor"),
    ],
)
def test_anything_but_one_rgb_photo_is_refused(tiny_codec, x, message):
    with pytest.raises(ValueError, match=message):
        tiny_codec.compress(x, 2)
    with pytest.raises(ValueError, match=r"seed is 1\.5"):  # before any long work
        tiny_codec.compress(x, 2, seed=1.5)


@pytest.mark.parametrize("levels", [0, 1, -3])
def test_a_codec_has_at_least_two_levels(levels):
    with pytest.raises(ValueError, match=f"levels is {levels}"):
        CodecConfig(levels=levels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_id": b"\1\2\3\4"}, "made by model 01020304, this one is "),
        *(({"quality": quality}, "quality") for quality in (0.0, 0.5, 3 + 1 / 256, 255)),
    ],
)
def test_a_file_that_is_not_of_this_model_is_refused(tiny_codec, file, change, words):
    with pytest.raises(BitstreamError, match=words):
        tiny_codec.decompress(dataclasses.replace(file, **change).to_bytes())


# Forged files: intact by their CRC, and yet not what an encoder writes


def test_a_forged_checksum_size_or_quality_is_caught(tiny_codec, file):
    sizes = [{"width": w, "height": h} for w, h in ((1, 1), (50, 129), (300, 10))]
    near = (
        {"width": file.width - 1},
        {"height": file.height + 1},
        {"quality": file.quality + 1 / 256},
    )
    for change in ({"symbols_crc": file.symbols_crc ^ 1}, *sizes, *near):
        forged = dataclasses.replace(file, **change).to_bytes()
        with pytest.raises(BitstreamError, match=r"decodes to other symbols|do not decode"):
            tiny_codec.decompress(forged)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_forged_streams_are_caught_and_never_crash(tiny_codec, file):
    rng = np.random.default_rng(0)
    streams = [b"", b"\0" * 50, b"\xff" * 3000, *(rng.bytes(int(n)) for n in 2 ** np.arange(12))]
    for stream in streams:
        for forged in (
            dataclasses.replace(file, y_stream=stream),
            dataclasses.replace(file, z_stream=stream),
            dataclasses.replace(file, z_stream=stream, y_stream=stream[::-1]),
        ):
            with pytest.raises(BitstreamError, match=r"other symbols|do not decode"):
                tiny_codec.decompress(forged.to_bytes())


def test_too_few_bytes_are_refused_before_anything_is_made(tiny_codec, file, monkeypatch):
    bomb = dataclasses.replace(file, width=8192, height=8192, y_stream=bytes(800)).to_bytes()
    monkeypatch.setattr(tiny_codec.entropy, "decode_z", None)
    with pytest.raises(BitstreamError, match="bytes are too few for 8192×8192 pixels"):
        tiny_codec.decompress(bomb)


def test_decoding_ends_where_the_bytes_do(tiny_codec, file, photo):
    """In the first pass of ten, for an encoder's file that is cut behind its last checksum."""
    file = BlurFile.from_bytes(tiny_codec.compress(photo(192, 192), 3))
    passes = []

    def watch(code):
        return lambda here, gaussian: passes.append(here) or code(here, gaussian)

    tiny_codec.decode_streams(file, watch)
    assert len(passes) == 10
    passes.clear()
    with pytest.raises(BitstreamError, match="ends before the picture does"):
        tiny_codec.decode_streams(dataclasses.replace(file, y_stream=file.y_stream[:100]), watch)
    assert len(passes) < 3


def test_a_reader_bounds_the_pixels(tiny_codec, file):
    pixels = file.width * file.height
    tiny_codec.decompress(file, max_pixels=pixels)
    with pytest.raises(BitstreamError, match=f"more than the limit of {pixels - 1:,} pixels"):
        tiny_codec.decompress(file, max_pixels=pixels - 1)


@pytest.mark.parametrize("answer", [math.nan, 1e3])
def test_a_photo_that_would_not_come_back_is_no_success(tiny_codec, photo, monkeypatch, answer):
    monkeypatch.setattr(
        type(tiny_codec.main_decoder), "forward",
        lambda self, *inputs: Reconstruction(torch.full((1, 3, 64, 64), answer), ()),
    )  # fmt: skip
    for compress in (tiny_codec.compress, lambda x, q: tiny_codec.compress_to(x, 10.0)):
        with pytest.raises(ValueError, match=r"quality .* lose this photo .* other weights"):
            compress(photo(64, 64), 2)


def test_files_are_coded_in_float64_and_in_nothing_else_by_accident(tiny_codec_path, photo):
    codec, x = zoo.load(tiny_codec_path), photo(40, 70)
    data = codec.compress(x, 2)
    codec.train()
    for code in (lambda: codec.compress(x, 2), lambda: codec.decompress(data)):
        with pytest.raises(ValueError, match=r"training mode: call eval\(\)"):
            code()
    codec.eval().float()
    for code in (lambda: codec.compress(x, 2), lambda: codec.decompress(data)):
        with pytest.raises(ValueError, match=r"in torch.float32, .* call code_in\(torch.float64\)"):
            code()
    assert codec.code_in().compress(x, 2) == data
    single = codec.code_in(torch.float32).compress(x, 2)  # asked for
    assert codec.decompress(single).y_hat.dtype == torch.float32
    with pytest.raises(ValueError, match=r"in torch.float64, .* call code_in\(torch.float32\)"):
        codec.double().compress(x, 2)
    rounded = codec.half().float().code_in().compress(x, 2)  # by a model that was never saved
    assert BlurFile.from_bytes(rounded).model_id == codec.model_id == bytes(4)


def test_training_reaches_every_part(photo):
    torch.manual_seed(0)
    codec = BlurCodec(CodecConfig(ENTROPY, levels=3))
    with torch.no_grad():
        codec.h_a.layers[-1].weight *= 40  # else every ẑ is 0, and h_s has nothing to learn from
    x = torch.cat([photo(64, 128), photo(64, 256)[..., 128:]])
    output = codec(x, torch.tensor([1.2, 2.7]))
    assert (output.x_hat.shape, output.estimated_bits.shape) == (x.shape, (2,))
    assert torch.isfinite(output.estimated_bits).all()
    (output.estimated_bits.sum() + output.x_hat.square().sum()).backward()
    unreached = {
        name
        for name, parameter in codec.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    assert not unreached
