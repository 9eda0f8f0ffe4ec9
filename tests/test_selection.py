import pickle
import sys

import pytest

from blurlib.evaluation.baselines import JPEG, MissingCodecError
from blurlib.evaluation.selection import available, select


def test_available_names_every_codec_and_what_is_missing(empty_home, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setenv("PATH", str(empty_home))
    reasons = available()
    assert reasons["jpeg"] is None
    assert "pip install 'blurlib[baselines]'" in reasons["jpegxl"]
    assert "vvencapp" in reasons["vvc"]
    assert "not downloaded" in reasons["compressai-mbt2018-mean-ms-ssim"]
    known = ["jpeg", "jpeg2000", "webp", "avif", "jpegxl", "heic"]
    assert list(reasons)[:9] == [*known, "jpeg-default", "webp-default", "vvc"]
    assert len(reasons) == 9 + 12
    assert all(reason is None or "\n" not in reason for reason in reasons.values())


@pytest.mark.parametrize("name", [name for name, reason in available().items() if not reason])
def test_selected_by_name_with_ten_to_twelve_qualities(name):
    chosen = select(name)
    assert chosen.codec.name == name
    assert chosen.checkpoint is None
    assert list(chosen.qualities) == sorted(set(chosen.qualities))
    assert 10 <= len(chosen.qualities) <= 12 or name.startswith("compressai-")
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
