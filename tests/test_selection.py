import pickle
import sys

import pytest

from blurlib.codec import zoo
from blurlib.codec.synthesis import DeterministicDecoder, DiffusionDecoder
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, DenoiserConfig
from blurlib.evaluation.baselines import JPEG, MissingCodecError
from blurlib.evaluation.selection import available, select


def test_available_names_every_codec_and_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    reasons = available()
    assert reasons["jpeg"] is None
    assert "pip install 'blurlib[baselines]'" in reasons["jpegxl"]
    known = ["jpeg", "jpeg2000", "webp", "avif", "jpegxl", "heic"]
    assert list(reasons) == [*known, "jpeg-default", "webp-default"]
    assert all(reason is None or "\n" not in reason for reason in reasons.values())


@pytest.mark.parametrize("name", [name for name, reason in available().items() if not reason])
def test_selected_by_name_with_ten_to_twelve_qualities(name):
    chosen = select(name)
    assert chosen.codec.name == name
    assert chosen.checkpoint is None
    assert list(chosen.qualities) == sorted(set(chosen.qualities))
    assert 10 <= len(chosen.qualities) <= 12
    pickle.dumps(chosen.codec)


def test_a_missing_codec_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingCodecError, match="heic: "):
        select("heic")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match="no codec 'gif'") as error:
        select("gif")
    for name in (*available(), "msssim-small"):
        assert name in str(error.value)


def test_ours_by_name():
    chosen = select("msssim-small")
    assert chosen.codec.name == "msssim-small-direct"
    assert chosen.checkpoint
    assert chosen.codec != JPEG


def test_each_decoder_on_top_has_a_results_file_of_its_own(tiny_codec, tiny_codec_path, tmp_path):
    config = DenoiserConfig(patch=4, widths=(8, 8, 8), blocks=1, cond_channels=(0, 16, 16))
    denoiser, own = Denoiser(config), tiny_codec.model_id
    path = tmp_path / "denoiser.safetensors"
    names = {"tiny-direct": select(str(tiny_codec_path)).codec.settings}
    for sigma in (0.0, 5.0):
        process = BlurDiffusion(BlurSchedule(sigma_blur_max=sigma))
        path.write_bytes(zoo.denoiser_bytes(DiffusionDecoder(denoiser, process, own)))
        chosen = select(str(tiny_codec_path), "diffusion", str(path), {"steps": 2, "seed": 9})
        assert chosen.seed == 9
        names[chosen.codec.name] = chosen.codec.settings
    path.write_bytes(zoo.deterministic_bytes(DeterministicDecoder(denoiser, own)))
    chosen = select(str(tiny_codec_path), "deterministic", str(path))
    assert chosen.seed is None
    names[chosen.codec.name] = chosen.codec.settings
    assert [*names] == ["tiny-direct", "tiny-isotropic", "tiny-diffusion", "tiny-deterministic"]
    assert names["tiny-isotropic"]["steps"] == names["tiny-diffusion"]["steps"] == 2
    assert "steps" not in names["tiny-deterministic"]


def test_a_denoiser_of_another_codec_is_refused(tiny_codec_path, tmp_path):
    config = DenoiserConfig(patch=4, widths=(8, 8, 8), blocks=1, cond_channels=(0, 16, 16))
    process = BlurDiffusion(BlurSchedule())
    path = tmp_path / "denoiser.safetensors"
    other = DiffusionDecoder(Denoiser(config), process, b"\1\2\3\4")
    path.write_bytes(zoo.denoiser_bytes(other))
    with pytest.raises(ValueError, match=r"trained for codec 01020304, and .*tiny.* name the"):
        select(str(tiny_codec_path), "diffusion", str(path))
