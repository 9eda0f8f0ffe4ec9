import functools
import pickle
from dataclasses import replace

import pytest
import torch
from compressai.models import FactorizedPrior, MeanScaleHyperprior
from compressai.zoo.image import cfgs, model_urls

from blurlib import images, metrics
from blurlib.evaluation import compressai_zoo
from blurlib.evaluation.baselines import MissingCodecError
from blurlib.evaluation.compressai_zoo import LEVELS, METRICS, ZOO, CompressaiCodec, pretrained


@functools.cache
def tiny(architecture, metric, quality, download=True):
    """Random weights, another set for every quality, in the zoo's own classes."""
    torch.manual_seed(quality)
    kind = {"bmshj2018-factorized": FactorizedPrior, "mbt2018-mean": MeanScaleHyperprior}
    model = kind[architecture](8, 12).eval()
    model.update()
    return model


MEAN_SCALE = CompressaiCodec("mbt2018-mean", "ms-ssim", tiny)
FACTORIZED = CompressaiCodec("bmshj2018-factorized", "mse", tiny)


@pytest.fixture(params=[MEAN_SCALE, FACTORIZED], ids=lambda codec: codec.architecture)
def codec(request):
    return request.param


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (64, 48), (65, 130)])
def test_decodes_what_the_model_computes(codec, astronaut, size):
    """Against the model's own ``compress`` and ``decompress`` on an image padded by hand."""
    image = astronaut[:, 100 : 100 + size[0], 200 : 200 + size[1]]
    data = codec.encode(image, 3)
    model = tiny(codec.architecture, codec.metric, 3)
    H, W = (-(-side // 64) * 64 for side in size)
    top, left = (H - size[0]) // 2, (W - size[1]) // 2
    x = torch.zeros(1, 3, H, W)
    x[0, :, top : top + size[0], left : left + size[1]] = images.to_float(image)
    with torch.inference_mode():
        out = model.compress(x)
        x_hat = model.decompress(out["strings"], out["shape"])["x_hat"]
    expected = images.to_uint8(x_hat[0, :, top : top + size[0], left : left + size[1]])
    assert torch.equal(codec.decode(data), expected)
    strings = [batch[0] for batch in out["strings"]]
    assert len(data) == 5 + 4 * len(strings) + sum(map(len, strings))
    assert data.endswith(b"".join(strings))


def test_quality_chooses_the_model_and_travels_in_the_file(codec, astronaut):
    image = astronaut[:, :64, :64]
    files = {quality: codec.encode(image, quality) for quality in (1, 2)}
    assert not torch.equal(codec.decode(files[1]), codec.decode(files[2]))


def test_pickled_and_again(codec, astronaut):
    image = astronaut[:, :40, :70]
    copy = pickle.loads(pickle.dumps(codec))
    assert copy.encode(image, 1) == codec.encode(image, 1)


def test_names_levels_and_weights_are_the_zoos():
    assert "compressai-mbt2018-mean-ms-ssim" in [codec.name for codec in ZOO]
    assert set(LEVELS) == set(model_urls)
    for codec in ZOO:
        assert list(codec.qualities) == list(model_urls[codec.architecture][codec.metric])
        assert list(codec.qualities) == list(cfgs[codec.architecture])
        assert len(codec.settings["weights"]) == len(codec.qualities)
    assert len(ZOO) == len(LEVELS) * len(METRICS)


@pytest.mark.parametrize("quality", [0, 9, 1.5])
def test_quality_outside_the_scale_is_refused(codec, quality, astronaut):
    with pytest.raises(ValueError, match=r"quality is an integer in 1\.\.8"):
        codec.encode(astronaut, quality)
    cheng = replace(codec, architecture="cheng2020-attn")
    with pytest.raises(ValueError, match=r"quality is an integer in 1\.\.6"):
        cheng.encode(astronaut, 7)


@pytest.mark.parametrize("keep", [0, 4, 7, 14, -1])
def test_a_truncated_file_is_refused(codec, astronaut, keep):
    """CompressAI's coder would read past its end."""
    data = codec.encode(astronaut[:, :64, :64], 1)
    with pytest.raises(ValueError, match="compressai-"):
        codec.decode(data[:keep])
    with pytest.raises(ValueError, match="truncated or damaged"):
        codec.decode(data + b"\0")


def test_no_pixels_are_refused(codec):
    with pytest.raises(ValueError, match="0 × 5"):
        codec.encode(torch.zeros(3, 5, 0, dtype=torch.uint8), 1)


def _one_channel(architecture, metric, quality, download=True):
    model = MeanScaleHyperprior(1, 1).eval()
    model.update()
    return model


def test_a_single_symbol_would_crash_the_coder_and_is_refused():
    codec = replace(MEAN_SCALE, load=_one_channel)
    with pytest.raises(ValueError, match="fewer than 2 symbols"):
        codec.encode(torch.zeros(3, 8, 8, dtype=torch.uint8), 1)


# ---------------------------------------------------------------- weights


def test_a_failed_download_says_what_to_do(empty_home, monkeypatch):
    def no_network(url, file, digest, progress):
        assert len(digest) == 8  # of the hash, to check the file by
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    codec = CompressaiCodec("mbt2018-mean", "mse")
    with pytest.raises(MissingCodecError) as error:
        codec.prepare()
    message = str(error.value)
    assert message.startswith("compressai-mbt2018-mean-mse: the weights of quality 1")
    assert "no route to host" in message
    assert str(empty_home / "weights" / "compressai") in message
    assert "\n" not in message


def test_weights_are_not_fetched_unless_allowed(empty_home, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # calling it would fail
    with pytest.raises(MissingCodecError, match="not downloaded yet"):
        CompressaiCodec("mbt2018", "mse").prepare(download=False)


@pytest.mark.slow
def test_weights_in_the_cache_are_used(empty_home, astronaut):
    """The zoo's own format: a state dict, under the name the zoo gives it."""
    torch.manual_seed(0)
    model = MeanScaleHyperprior(128, 192).eval()
    model.update()
    file = empty_home / "weights/compressai" / model_urls["mbt2018-mean"]["mse"][1].split("/")[-1]
    file.parent.mkdir(parents=True)
    torch.save(model.state_dict(), file)
    codec = CompressaiCodec("mbt2018-mean", "mse")
    image = astronaut[:, :64, :64]
    with torch.inference_mode():
        x_hat = model.decompress(**model.compress(images.to_float(image)[None]))["x_hat"]
    decoded = codec.decode(codec.encode(image, 1))
    assert metrics.mse(decoded, images.to_uint8(x_hat[0])) == 0


def test_damaged_weights_are_named(empty_home):
    file = empty_home / "weights/compressai" / model_urls["mbt2018-mean"]["mse"][2].split("/")[-1]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not weights")
    with pytest.raises(MissingCodecError, match=f"{file.name}: is not the zoo's weights"):
        pretrained("mbt2018-mean", "mse", 2)


def test_the_default_is_the_pretrained_zoo():
    assert all(codec.load is compressai_zoo.pretrained for codec in ZOO)
