"""From the direct reconstruction to the perceptual one, with an untrained denoiser."""

import pytest
import torch

from blurlib.codec import zoo
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, DenoiserConfig


@pytest.fixture(scope="module")
def decoder(tiny_codec) -> DiffusionDecoder:
    torch.manual_seed(0)
    config = DenoiserConfig(patch=4, widths=(8, 8, 8), blocks=1, cond_channels=(0, 16, 16))
    denoiser = Denoiser(config)
    with torch.no_grad():  # an untrained denoiser returns its base: let it do something
        torch.nn.init.normal_(denoiser.head.weight, std=0.1)
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=5.0))
    return DiffusionDecoder(denoiser, process, tiny_codec.model_id).eval()


def decoded(codec, photo, height=70, width=90):
    return codec.decompress(codec.compress(photo(height, width), 2))


def test_each_step_yields_a_picture_of_the_photos_size(decoder, tiny_codec, photo):
    output = decoded(tiny_codec, photo)
    states = list(decoder.sample(output, steps=3))
    assert [(state.step, state.steps) for state in states] == [(1, 3), (2, 3), (3, 3)]
    for state in states:
        assert state.x_hat.shape == (1, 3, 70, 90)
        assert 0 <= state.x_hat.min()
        assert state.x_hat.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 3)])
def test_any_size_works(decoder, tiny_codec, photo, size):
    *_, last = decoder.sample(decoded(tiny_codec, photo, *size), steps=2)
    assert last.x_hat.shape == (1, 3, *size)
    assert torch.isfinite(last.x_hat).all()


def test_the_seed_decides_the_picture(decoder, tiny_codec, photo):
    output = decoded(tiny_codec, photo)

    def last(seed: int) -> torch.Tensor:
        *_, state = decoder.sample(output, steps=2, seed=seed)
        return state.x_hat

    torch.manual_seed(1)
    first = last(3)
    torch.manual_seed(2)  # the global generator has no say
    assert torch.equal(first, last(3))
    assert not torch.equal(first, last(4))


def test_forward_and_decompress_lead_to_the_same_picture(decoder, tiny_codec, photo):
    x = photo(70, 90)
    with torch.inference_mode():
        *_, a = decoder.sample(tiny_codec(x, 2), steps=2)
    *_, b = decoder.sample(decoded(tiny_codec, photo), steps=2)
    assert torch.equal(a.x_hat, b.x_hat)


def test_the_denoiser_is_given_the_direct_reconstruction(decoder, tiny_codec, photo):
    """An untrained head returns base: the result is then the direct reconstruction, clamped."""
    plain = DiffusionDecoder(
        Denoiser(decoder.denoiser.config), decoder.process, tiny_codec.model_id
    ).eval()
    output = decoded(tiny_codec, photo)
    *_, last = plain.sample(output, steps=4)
    torch.testing.assert_close(last.x_hat, output.x_hat.clamp(0, 1), rtol=0, atol=1e-5)


def test_a_saved_decoder_samples_the_same(decoder, tiny_codec, photo, tmp_path):
    path = tmp_path / "denoiser.safetensors"
    path.write_bytes(zoo.denoiser_bytes(decoder))
    once = zoo.load_denoiser(path)
    path.write_bytes(zoo.denoiser_bytes(once))
    twice = zoo.load_denoiser(path)
    output = decoded(tiny_codec, photo)
    a, b = ([state.x_hat for state in d.sample(output, steps=2)] for d in (once, twice))
    assert torch.equal(a[-1], b[-1])


@pytest.mark.parametrize("steps", [0, -1])
def test_at_least_one_step(decoder, tiny_codec, photo, steps):
    with pytest.raises(ValueError, match=f"at least 1 step, got {steps}"):
        next(decoder.sample(decoded(tiny_codec, photo), steps=steps))


def test_another_codecs_picture_is_refused_at_once(decoder, tiny_codec, photo):
    output = decoded(tiny_codec, photo)._replace(model_id=b"\1\2\3\4")
    with pytest.raises(ValueError, match=r"trained for codec .* and the picture is from 01020304"):
        decoder.sample(output)
