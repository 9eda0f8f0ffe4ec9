"""Weights: saved, loaded, refused."""

import copy
import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

import blurlib.codec
from blurlib.codec import BlurCodec, Objective, zoo
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, DenoiserConfig


@pytest.fixture
def denoiser_path(tmp_path) -> Path:
    torch.manual_seed(0)
    config = DenoiserConfig(patch=8, widths=(8, 8), blocks=1, cond_channels=(16, 16))
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=7.0), "v")
    path = tmp_path / "denoiser.safetensors"
    path.write_bytes(zoo.decoder_bytes(DiffusionDecoder(Denoiser(config), process, b"\1\2\3\4")))
    return path


@pytest.fixture
def shipped(tmp_path, monkeypatch, tiny_codec_path) -> Path:
    """A folder of shipped weights that holds "alpha" and "beta"."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    data = tiny_codec_path.read_bytes()
    sums = {}
    for name in ("alpha", "beta"):
        (folder / f"{name}.safetensors").write_bytes(data)
        sums[f"{name}.safetensors"] = hashlib.sha256(data).hexdigest()
    (folder / "sha256.json").write_text(json.dumps(sums))
    monkeypatch.setattr(zoo, "CHECKPOINTS", folder)
    monkeypatch.setattr(zoo, "SHA256", folder / "sha256.json")
    return folder


def metadata_of(data: bytes) -> dict:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["blurlib"])


@pytest.fixture
def written(tmp_path):
    """written(tensors, metadata): the path of a model file of these."""

    def written(tensors, metadata) -> Path:
        path = tmp_path / "written.safetensors"
        path.write_bytes(safetensors.torch.save(tensors, {"blurlib": json.dumps(metadata)}))
        return path

    return written


def test_saving_a_loaded_codec_gives_the_same_file(tiny_codec_path, tmp_path):
    codec = zoo.load(tiny_codec_path)
    assert not codec.training
    assert codec.model_id == hashlib.sha256(tiny_codec_path.read_bytes()).digest()[:4]
    assert codec.compress(torch.zeros(1, 3, 8, 8), 1)[6:10] == codec.model_id
    assert zoo.codec_bytes(codec) == tiny_codec_path.read_bytes()
    codec.objective = Objective("mse", 0.25, 3.0)
    path = tmp_path / "mse.safetensors"
    path.write_bytes(zoo.codec_bytes(codec))
    assert zoo.load(path).objective == codec.objective


def test_tables_come_from_the_file(tiny_codec_path, written):
    data, name = tiny_codec_path.read_bytes(), "entropy.hyper_latent.table"
    tensors = safetensors.torch.load(data)
    tensors[name][3, 1] += 17
    loaded = zoo.load(written(tensors, metadata_of(data)))
    assert torch.equal(loaded.entropy.hyper_latent.table, tensors[name])


@pytest.mark.parametrize(
    ("tensor", "value", "words"),
    [
        ("g_a.layers.1.weight", None, "do not fit"),
        ("g_a.layers.1.weight", math.nan, "not finite"),
        ("entropy.hyper_latent.table", 0, "do not fit"),
        ("entropy.hyper_latent.table", 70_000, "do not fit"),
        ("entropy.hyper_latent.length", 999, "do not fit"),
        ("entropy.hyper_latent.offset", 5, "do not fit"),
    ],
)
def test_weights_that_cannot_be_are_refused(tiny_codec_path, written, tensor, value, words):
    data = tiny_codec_path.read_bytes()
    tensors = safetensors.torch.load(data)
    if value is None:
        del tensors[tensor]
    else:
        tensors[tensor].view(-1)[0] = value
    with pytest.raises(zoo.WeightsError, match=words):
        zoo.load(written(tensors, metadata_of(data)))


def test_a_configuration_larger_than_its_file_is_not_made(tiny_codec_path, written, monkeypatch):
    data = tiny_codec_path.read_bytes()
    metadata = metadata_of(data)
    metadata["config"]["entropy"] |= {"M": 10**6, "groups": [10**6]}
    monkeypatch.setattr(zoo, "BlurCodec", lambda config: pytest.fail("made"))
    with pytest.raises(zoo.WeightsError, match="configuration is larger than its tensors"):
        zoo.load(written(safetensors.torch.load(data), metadata))


def test_large_weights_are_stored_in_half_precision(tiny_codec_path):
    for name, tensor in safetensors.torch.load(tiny_codec_path.read_bytes()).items():
        if tensor.is_floating_point():
            assert (tensor.dtype == torch.float16) == (tensor.numel() >= 1024), name


def test_a_denoiser_comes_back(denoiser_path):
    diffusion = zoo.load_denoiser(denoiser_path)
    assert diffusion.process == BlurDiffusion(BlurSchedule(sigma_blur_max=7.0), "v")
    assert diffusion.denoiser.config.cond_channels == (16, 16)
    assert zoo.decoder_bytes(diffusion) == denoiser_path.read_bytes()
    assert (diffusion.codec_id, diffusion.training) == (b"\1\2\3\4", False)


def test_a_denoiser_does_not_start_with_the_weights_of_another_size(denoiser_path):
    wider = Denoiser(DenoiserConfig(patch=8, widths=(16, 8), blocks=1, cond_channels=(16, 16)))
    with pytest.raises(zoo.WeightsError, match="do not fit"):
        zoo.initialise_denoiser(wider, denoiser_path)


def test_shipped_weights_load_by_name_and_by_id(shipped, tiny_codec):
    assert zoo.names() == ["alpha", "beta"]
    assert zoo.load("beta").model_id == tiny_codec.model_id
    assert zoo.name_of(tiny_codec.model_id) == "alpha"
    assert zoo.load_by_id(tiny_codec.model_id).model_id == tiny_codec.model_id


def test_a_shipped_file_that_is_not_the_recorded_one_is_refused(shipped):
    data = bytearray((shipped / "beta.safetensors").read_bytes())
    (shipped / "gamma.safetensors").write_bytes(data)  # of no recorded sum
    data[-1] ^= 1
    (shipped / "beta.safetensors").write_bytes(data)
    for name in ("beta", "gamma"):
        with pytest.raises(zoo.WeightsError, match=f"{name}.safetensors differs from its"):
            zoo.load(name)
    zoo.load("alpha")


def test_what_is_not_shipped_is_refused(shipped, tiny_codec_path):
    for name in ("gamma", "", "../alpha", "alpha.safetensors"):
        with pytest.raises(zoo.WeightsError, match="shipped are alpha, beta"):
            zoo.load(name)
    with pytest.raises(zoo.WeightsError, match="no model or file"):
        zoo.load(tiny_codec_path.with_suffix(""))
    with pytest.raises(zoo.WeightsError, match="model 01020304, which is not shipped"):
        zoo.load_by_id(b"\1\2\3\4")


def test_what_is_shipped_now_loads():
    for name in zoo.names():
        data, _ = zoo._read(name)
        model = {"codec": zoo.load, "denoiser": zoo.load_denoiser}[metadata_of(data)["kind"]](name)
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_what_is_no_model_file_is_refused(tiny_codec_path, tmp_path):
    path, ours = tmp_path / "x.safetensors", tiny_codec_path.read_bytes()
    foreign = [b"", bytes(100), b"PK\x03\x04" * 50, b"\x80\x04N."]
    foreign += [ours[:n] for n in (4, 100, len(ours) // 2, len(ours) - 1)]
    for metadata in (None, {"other": "x"}, {"blurlib": "no JSON"}):
        foreign.append(safetensors.torch.save({"a": torch.zeros(2)}, metadata))
    for data in foreign:
        path.write_bytes(data)
        with pytest.raises(zoo.WeightsError, match="is not a blurlib model file"):
            zoo.load(path)


def test_the_wrong_kind_is_refused(tiny_codec_path, denoiser_path):
    for load, path, found, needed in (
        (zoo.load, denoiser_path, "denoiser", "codec"),
        (zoo.load_denoiser, tiny_codec_path, "codec", "denoiser"),
    ):
        with pytest.raises(zoo.WeightsError, match=f"is a {found}, and a {needed} is needed"):
            load(path)


@pytest.mark.parametrize("kind", ["codec", "denoiser"])
def test_a_file_that_contradicts_itself_is_refused(written, kind):
    load = zoo.load if kind == "codec" else zoo.load_denoiser
    configs = (3, {}, {"entropy": {"M": 1}}, {"x": 1})
    wrong = [{"architecture": 0, "config": {}}, {"architecture": 1}, {}]
    wrong += [{"config": config} for config in configs]
    for fields in wrong:
        metadata = {"kind": kind, "architecture": zoo.ARCHITECTURE, **fields}
        with pytest.raises(zoo.WeightsError, match=r"architecture 0|do not fit|is larger"):
            load(written({"a": torch.zeros(2)}, metadata))


def test_nothing_here_unpickles():
    forbidden = (
        r"\b(pickle|dill|joblib|shelve|marshal)\b|(?<!safetensors\.)\b(torch|np|torch\.jit)\.load\b"
    )
    for path in Path(blurlib.codec.__file__).parent.glob("*.py"):
        assert not re.search(forbidden, path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("distortion", ["mse+lpips", "ms-ssim"])
def test_another_range_of_rates_starts_with_the_gains_of_its_lmbda(
    tiny_codec, distortion, tmp_path
):
    """λ from the second third of the logarithmic range on, where both weigh the squared error."""
    levels = tiny_codec.config.levels
    lowest, highest = 0.001 * 60 ** (1 / 3), 0.06
    codec = copy.deepcopy(tiny_codec)
    codec.objective = Objective("mse", 0.001, 0.06)
    for gain in (codec.gain, codec.inverse_gain):
        gain.log_gain.data = 3 * torch.arange(levels)[:, None] / (levels - 1) + gain.log_gain[:1]
    path = tmp_path / "mse.safetensors"
    path.write_bytes(zoo.codec_bytes(codec))
    started = BlurCodec(codec.config)
    started.objective = Objective(distortion, lowest, highest)
    zoo.initialise(started, path)
    first, last = 1.0 if distortion == "mse+lpips" else 0.0, 3.0
    expected = codec.gain.log_gain[:1] + torch.linspace(first, last, levels)[:, None]
    torch.testing.assert_close(started.gain.log_gain, expected, atol=2e-3, rtol=0)
