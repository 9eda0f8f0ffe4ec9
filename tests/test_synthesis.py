"""From the direct reconstruction to the perceptual one, with an untrained denoiser."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from blurlib.codec import zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.codec.transforms import Reconstruction
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, Sampling, Tiling, tiling
from stand_ins import DENOISER


@pytest.fixture(scope="module", params=["x", "residual", "told"])
def decoder(tiny_codec, request) -> DiffusionDecoder:
    torch.manual_seed(0)
    residual, told = request.param != "x", 7 if request.param == "told" else 0
    levels = tiny_codec.config.levels if residual else 0
    config = replace(DENOISER, residual_to_base=not residual, error_levels=levels, told=told)
    denoiser = Denoiser(config)
    with torch.no_grad():  # an untrained denoiser returns its base: let it do something
        torch.nn.init.normal_(denoiser.head.weight, std=0.1)
        if residual:
            denoiser.error_spectra -= 4 + torch.arange(len(denoiser.error_spectra))[:, None]
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=5.0), "residual" if residual else "x")
    return DiffusionDecoder(denoiser, process, tiny_codec.model_id).eval()


def decoded(codec, photo, height=70, width=90):
    return codec.decompress(codec.compress(photo(height, width), 2))


@pytest.mark.parametrize("size", [(70, 90), (1, 1), (64, 64)])
def test_each_step_yields_a_picture_of_the_photos_size(decoder, tiny_codec, photo, size):
    states = list(decoder.sample(decoded(tiny_codec, photo, *size), steps=3))
    assert [(state.step, state.steps) for state in states] == [(1, 3), (2, 3), (3, 3)]
    for state in states:
        assert state.x_hat.shape == (1, 3, *size)
        assert 0 <= state.x_hat.min()
        assert state.x_hat.max() <= 1


def test_the_files_seed_counts_where_no_other_is_asked_for(decoder, tiny_codec, photo, monkeypatch):
    x = photo(70, 90)
    seeded = tiny_codec.decompress(tiny_codec.compress(x, 2, seed=3))
    plain = tiny_codec.decompress(tiny_codec.compress(x, 2))
    assert (seeded.seed, plain.seed) == (3, None)

    def last(output, **asked) -> torch.Tensor:
        *_, state = decoder.sample(output, steps=2, **asked)
        return state.x_hat

    assert torch.equal(last(seeded), last(plain, seed=3))
    assert torch.equal(last(seeded, seed=4), last(plain, seed=4))
    assert not torch.equal(last(seeded), last(plain))
    monkeypatch.setattr(decoder, "sampling", Sampling(2, seed=5))
    assert torch.equal(decoder.decode(seeded), last(seeded))
    assert torch.equal(decoder.decode(plain), last(plain, seed=5))
    assert torch.equal(decoder.decode(seeded, Sampling(2, seed=6)), last(plain, seed=6))


def test_the_denoiser_is_given_the_direct_reconstruction(decoder, tiny_codec, photo):
    """An untrained head returns base: the result is then the direct reconstruction, clamped."""
    if decoder.process.prediction == "residual":
        pytest.skip("samples the prior around it: test_prior.py")
    plain = DiffusionDecoder(
        Denoiser(decoder.denoiser.config), decoder.process, tiny_codec.model_id
    ).eval()
    output = decoded(tiny_codec, photo)
    *_, last = plain.sample(output, steps=4)
    torch.testing.assert_close(last.x_hat, output.x_hat.clamp(0, 1), rtol=0, atol=1e-5)


def test_photos_of_several_qualities_are_a_batch(decoder, tiny_codec, photo):
    """Each has the errors of its own quality."""
    if decoder.process.prediction != "residual":
        pytest.skip("asks nothing of the quality")
    x = torch.cat([photo(64, 64), photo(64, 64).flip(-1)])
    with torch.no_grad():
        both = tiny_codec.eval()(x, torch.tensor([1.0, 2.0]))
        one = [tiny_codec(x[i : i + 1], 1.0 + i) for i in range(2)]
    usual = decoder.variance(both._replace(psnr=None))
    assert (usual[0] > 2 * usual[1]).all()
    together = decoder.variance(both)
    for i, alone in enumerate(one):
        assert torch.equal(together[i], decoder.variance(alone)[0])
        if not decoder.denoiser.config.told:  # of its size
            assert torch.equal(together[i], usual[i])
            continue
        error = 4 * (alone.x_hat - x[i]).square().mean().item()
        assert together[i].mean().item() == pytest.approx(error, rel=0.03)  # ⅛ dB
        ratio = together[i] / usual[i]
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    with pytest.raises(ValueError, match="known for qualities 1 to"):
        decoder.variance(both._replace(quality=both.quality + 99))
    with pytest.raises(ValueError, match="error_levels is 0"):
        DiffusionDecoder(Denoiser(DENOISER), decoder.process, tiny_codec.model_id)


def test_what_is_told_is_that_of_each_symbol_and_photo(decoder, tiny_codec, photo):
    """log₂ σ one symbol after the other; the usual PSNR at quality 2 where the file has none."""
    output = decoded(tiny_codec, photo)
    *pyramid, told = decoder.conditions(output)
    if not decoder.denoiser.config.told:
        assert decoder.conditions(output) is output.reconstruction.pyramid
        pytest.skip("is told nothing")
    assert all(map(torch.equal, pyramid, output.reconstruction.pyramid))
    assert told.shape == (1, 7, 8, 8)
    sums = torch.zeros(5, 8, 8, dtype=torch.float64)
    for channels, mask, sigma in ((*c.here, c.sigma) for c in output.latent.passes):
        group = tiny_codec.entropy.channels.index(channels)
        for i, (row, column) in enumerate(mask.nonzero().tolist()):
            sums[group, row, column] = sum(math.log2(s) for s in sigma[0, :, i].tolist())
    mean = sums / torch.tensor(tiny_codec.config.entropy.groups)[:, None, None]
    torch.testing.assert_close(2 * told[0, :5] - 1, mean.float(), rtol=0, atol=1e-4)
    assert mean.std() > 0.01
    without = decoder.conditions(output._replace(psnr=None))[-1]
    assert torch.equal(without[:, :6], told[:, :6])
    usual = 10 * math.log10(4 / math.exp(-5))
    for maps, psnr in ((told, output.psnr.item()), (without, usual)):
        of_photo = torch.tensor([0.0, psnr / 10 - 3])[:, None, None]  # 2 is the middle of 1 … 3
        torch.testing.assert_close(maps[0, 5:], of_photo.expand(2, 8, 8))


def test_tiles_change_little(decoder, tiny_codec, photo):
    output = decoded(tiny_codec, photo, 130, 300)
    *_, whole = decoder.sample(output, steps=2)
    *_, tiled = decoder.sample(output, steps=2, tiling=Tiling(tile=128, overlap=64))
    assert not torch.equal(tiled.x_hat, whole.x_hat)
    torch.testing.assert_close(tiled.x_hat, whole.x_hat, rtol=0, atol=0.05)


def test_regions_of_one_noise_change_little(decoder, tiny_codec, photo, monkeypatch):
    """Where the chain of the whole would not fit into memory; each step and region is told."""
    output, tiles = decoded(tiny_codec, photo, 190, 310), Tiling(memory=13 * 2**20, overlap=64)
    monkeypatch.setattr(tiling, "REGION", 192)
    states = [(s.step, s.steps, s.x_hat) for s in decoder.sample(output, steps=2, tiling=tiles)]
    assert [state[:2] for state in states] == [(i + 1, 4) for i in range(4)]
    assert states[-1][2].shape == output.x_hat.shape
    parts = tiling.spans(192, 192, 64, 16), tiling.spans(320, 320, 64, 16)
    chain = partial(decoder._chain, how=Sampling(2), side=320, overlap=64)
    given = Reconstruction(output.reconstruction.x_hat, decoder.conditions(output))
    output = output._replace(reconstruction=given)
    *_, whole = decoder._by_regions(output, [tuple(a for (a,) in parts)], chain, 0)
    assert not torch.equal(states[-1][2], whole.x_hat)
    torch.testing.assert_close(states[-1][2], whole.x_hat, rtol=0, atol=0.05)


def test_mixed_precision_is_the_networks_alone(decoder, tiny_codec, photo):
    """The pictures of the chain stay float32."""
    output = decoded(tiny_codec, photo)
    *_, full = decoder.sample(output, steps=2)
    with torch.autocast("cpu", torch.bfloat16):
        *_, half = decoder.sample(output, steps=2)
    assert half.x_hat.dtype == torch.float32
    assert not torch.equal(half.x_hat, full.x_hat)
    torch.testing.assert_close(half.x_hat, full.x_hat, rtol=0, atol=0.05)


def test_a_denoiser_is_sampled_as_its_file_or_the_caller_says(decoder, tiny_codec, photo, tmp_path):
    output, path = decoded(tiny_codec, photo), tmp_path / "denoiser.safetensors"
    own = Sampling(2, 7, "multistep", "uniform", 0.6)
    path.write_bytes(zoo.decoder_bytes(DiffusionDecoder(*parts(decoder), own)))
    loaded = zoo.load_denoiser(path)
    assert loaded.sampling == own
    assert [state.steps for state in loaded.sample(output)] == [2, 2]
    assert torch.equal(loaded.decode(output), loaded.decode(output, own))
    *_, last = loaded.sample(output, steps=3, start_scale=0.9)
    wanted = Sampling(3, 7, "multistep", "uniform", 0.9)
    assert torch.equal(last.x_hat, loaded.decode(output, wanted))
    assert DiffusionDecoder(*parts(decoder)).sampling == Sampling()


def parts(decoder):
    return decoder.denoiser, decoder.process, decoder.codec_id


@pytest.fixture(scope="module")
def deterministic(decoder) -> DiffusionDecoder:
    """The same weights, decoded in one step without noise."""
    return DiffusionDecoder(*parts(decoder), Sampling(1, start_scale=0.0)).eval()


def test_one_step_without_noise_is_one_evaluation_of_the_network(deterministic, tiny_codec, photo):
    """Of nothing but the direct picture, at t = 1, whatever the seed. Its unit is what the best
    linear estimate leaves of the error's size: the variance at quality 2 is e⁻⁵ throughout."""
    output = decoded(tiny_codec, photo)
    base, nothing = 2 * output.reconstruction.x_hat - 1, torch.zeros(1, 3, 128, 128)
    with torch.no_grad():
        by_hand = deterministic.denoiser(
            nothing, torch.ones(1), base, deterministic.conditions(output)
        )
    if deterministic.process.prediction == "residual":
        E = math.exp(-5)
        if deterministic.denoiser.config.told:
            E = 4 * 10 ** (-output.psnr.item() / 10)
        schedule = deterministic.process.schedule
        alpha, sigma = schedule.alpha(1.0, 128, 128), schedule.sigma(1.0)
        left = E * sigma**2 / (alpha**2 * E + sigma**2)
        by_hand = base + left.mean().sqrt().float() * by_hand
    times = []
    hook = deterministic.denoiser.register_forward_hook(lambda _, given, __: times.append(given[1]))
    picture = deterministic.decode(output)
    hook.remove()
    assert times == [1.0]
    torch.testing.assert_close(
        picture, ((by_hand[..., :70, :90] + 1) / 2).clamp(0, 1), rtol=0, atol=1e-6
    )
    assert not torch.allclose(picture, output.x_hat, atol=1e-3)
    again = deterministic.decode(output, deterministic.sampling.but(seed=7))
    assert torch.equal(again, picture)


def test_other_codecs_and_too_little_memory_are_refused(decoder, tiny_codec, photo):
    file = BlurFile.from_bytes(tiny_codec.compress(photo(70, 90), 2))
    output = tiny_codec.decompress(file)
    decoder.check(file, Tiling())
    with pytest.raises(ValueError, match=r"memory is 1 MiB.* 128×128 pixels takes (\d+) MiB"):
        decoder.check(file, Tiling(memory=2**20))
    with pytest.raises(ValueError, match="memory is 1 MiB"):
        decoder.decode(output, tiling=Tiling(memory=2**20))
    other = DiffusionDecoder(decoder.denoiser, decoder.process, b"\1\2\3\4")
    for call in (other.check, lambda *_: other.decode(output)):
        with pytest.raises(ValueError, match="trained for codec 01020304, and the picture is from"):
            call(file, Tiling())
