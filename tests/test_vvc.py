import pickle
import stat
import sys

import numpy as np
import pytest
import torch

from blurlib import metrics
from blurlib.evaluation.baselines import MissingCodecError
from blurlib.evaluation.vvc import VVC, rgb_to_yuv420, yuv420_to_rgb

# ITU-R BT.709's matrix as it is printed, to four digits: an independent copy of it.
BT709 = np.array(
    [[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]], dtype=float
)

FAKE = """#!{python}
import sys
arguments = sys.argv[1:]
if "--version" in arguments:
    print("{name}: a program for tests, version 9.8.7 [Linux]")
    raise SystemExit
open({log!r}, "a").write(" ".join(["{name}", *arguments]) + "\\n")
value = dict(zip(arguments, arguments[1:]))
data = open(value["{source}"], "rb").read()
open(value["-o"], "wb").write(data)
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """PATH with programs that copy bytes; the file in which they note how they were called."""
    log = tmp_path / "log"
    for name, source in (("vvencapp", "-i"), ("vvdecapp", "-b")):
        script = FAKE.format(python=sys.executable, name=name, source=source, log=str(log))
        _program(tmp_path / name, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    return log


def _program(path, script):
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (12, 200, 99), (0, 0, 0)]
)
def test_colours_by_the_printed_matrix(colour):
    rgb = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 2, 4)
    y, cb, cr = BT709 @ (np.array(colour) / 255)
    samples = rgb_to_yuv420(rgb)
    expected = np.array([1023 * y] * 8 + [512 + 1023 * cb] * 2 + [512 + 1023 * cr] * 2)
    assert samples.dtype == np.dtype("<u2")
    assert np.abs(samples - expected.clip(0, 1023)).max() <= 0.6  # rounding, 4 digits


def test_planes_lie_in_order_and_chroma_is_the_mean_of_four():
    rgb = torch.zeros(3, 2, 4, dtype=torch.uint8)
    rgb[2, 0, 0] = 200  # one blue pixel of the four on the left
    y, cb, cr = BT709 @ (np.array([0, 0, 200]) / 255)
    samples = rgb_to_yuv420(rgb).astype(float)
    assert samples[0] == pytest.approx(1023 * y, abs=0.6)
    assert (samples[1:8] == 0).all()
    assert samples[8:] == pytest.approx(
        [512 + 1023 * cb / 4, 512, 512 + 1023 * cr / 4, 512], abs=0.6
    )


def test_there_and_back_is_exact_without_chroma_detail():
    """10 bits hold every 8-bit colour; only averaging 2 × 2 loses."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        colour = torch.randint(0, 256, (3, 1, 1), generator=generator, dtype=torch.uint8)
        flat = colour.expand(3, 4, 6)
        assert torch.equal(yuv420_to_rgb(rgb_to_yuv420(flat), 4, 6), flat)


def test_chroma_stays_centred():
    """A ramp of colour comes back where it was: half a sample of shift would be 2 levels."""
    ramp = torch.zeros(3, 32, 32)
    ramp[0] = ramp[2] = 60 + 4.0 * torch.arange(32)
    back = yuv420_to_rgb(rgb_to_yuv420(ramp), 32, 32)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert (back[inner].double() - ramp[inner]).abs().max() <= 1.0


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 33), (64, 48), (96, 130)])
def test_round_trip_through_the_programs(programs, astronaut, size):
    image = astronaut[:, 40 : 40 + size[0], 150 : 150 + size[1]]
    data = VVC.encode(image, 31)
    decoded = VVC.decode(data)
    assert decoded.shape == image.shape
    assert metrics.psnr(image, decoded) > 30  # 4:2:0 only: the programs copy
    rows, columns = (max(64, -(-side // 8) * 8) for side in size)
    assert len(data) == 4 + rows * columns * 3


def test_the_programs_are_called_as_the_settings_say(programs, astronaut):
    VVC.decode(VVC.encode(astronaut[:, :50, :70], 31))
    encoder, decoder = programs.read_text().splitlines()
    assert encoder.startswith("vvencapp -i ")
    for option in ("-s 72x64", "-c yuv420_10", "--qp 32", "--qpa 0", "--preset medium",
                   "--threads 1", "--frames 1"):  # fmt: skip
        assert f"{option} " in encoder + " "
    assert decoder.startswith("vvdecapp -b ")
    assert VVC.settings["library"] == "vvencapp 9.8.7"
    assert VVC.settings["decoder"] == "vvdecapp 9.8.7"


def test_pickled_and_again(programs, astronaut):
    image = astronaut[:, :40, :40]
    copy = pickle.loads(pickle.dumps(VVC))
    assert copy == VVC
    assert copy.encode(image, 20) == VVC.encode(image, 20)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("quality", [-1, 64, 30.5])
def test_quality_outside_the_scale_is_refused(programs, astronaut, quality):
    with pytest.raises(ValueError, match=r"vvc: quality is an integer in 0\.\.63"):
        VVC.encode(astronaut, quality)


@pytest.mark.parametrize("name", ["vvencapp", "vvdecapp"])
def test_a_missing_program_is_named(programs, name):
    (programs.parent / name).unlink()
    with pytest.raises(MissingCodecError, match=f"vvc: {name} is not on PATH: .*Fraunhofer"):
        VVC.prepare()


def test_a_failing_program_is_quoted(programs, astronaut):
    script = f"#!{sys.executable}\nimport sys; sys.exit('no such preset')\n"
    _program(programs.parent / "vvencapp", script)
    with pytest.raises(ValueError, match=r"vvencapp failed \(1\): no such preset"):
        VVC.encode(astronaut[:, :16, :16], 31)


@pytest.mark.parametrize("keep", [0, 3, 1000])
def test_a_truncated_file_is_refused(programs, astronaut, keep):
    data = VVC.encode(astronaut[:, :16, :16], 31)
    with pytest.raises(ValueError, match="vvc"):
        VVC.decode(data[:keep])
