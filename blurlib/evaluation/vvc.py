"""VVC (H.266) by VVenC and VVdeC, where their programs ``vvencapp`` and ``vvdecapp`` are on PATH.

VVenC codes 4:2:0 only, so colours are converted here, in float64 but for the 10-bit samples of the
raw file that the programs read and write.
"""

import functools
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blurlib.evaluation.baselines import MissingCodecError, check_quality

KR, KB = 0.2126, 0.0722
"""BT.709: the weights of red and blue in luma; green has the rest."""

_TO_YCBCR = torch.tensor(
    [
        [KR, 1 - KR - KB, KB],
        [-KR / (2 - 2 * KB), -(1 - KR - KB) / (2 - 2 * KB), 0.5],
        [0.5, -(1 - KR - KB) / (2 - 2 * KR), -KB / (2 - 2 * KR)],
    ],
    dtype=torch.float64,
)
_OFFSET = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)[:, None, None]
_PEAK, _MIDDLE = 1023, 512  # 10 bits, full range
_MIN_SIDE, _MULTIPLE = 64, 8  # VVenC would pad to multiples of 8 too, but not from odd sizes
_HEADER = struct.Struct(">HH")  # H, W of the image before padding


@dataclass(frozen=True)
class VvcCodec:
    """One intra picture, 4:2:0, 10 bits, BT.709 full range, without perceptual QP adaptation.

    ``quality`` is 63 − QP, an integer in 0..63. A file is H and W, 2 bytes each, and the bitstream
    of the picture, its last row and column repeated up to a multiple of 8 and at least 64. Takes
    images from 1 × 1 to 65535 × 65535 pixels.
    """

    name: str = "vvc"
    preset: str = "medium"
    qualities: range = range(64)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "quality": "63 - QP",
            "preset": self.preset,
            "qpa": 0,
            "threads": 1,
            "samples": "4:2:0, 10 bits, BT.709 full range; chroma 2×2 mean down, bicubic up",
            "library": _version(self._app("vvencapp")),
            "decoder": _version(self._app("vvdecapp")),
        }

    def prepare(self) -> None:
        for program in ("vvencapp", "vvdecapp"):
            self._app(program)

    def _app(self, program: str) -> str:
        path = shutil.which(program)
        if path is None:
            project = {"vvencapp": "VVenC", "vvdecapp": "VVdeC"}[program]
            raise MissingCodecError(
                f"{self.name}: {program} is not on PATH: build or install Fraunhofer's {project}"
            )
        return path

    def encode(self, image: Tensor, quality: float) -> bytes:
        qp = 63 - check_quality(self.name, quality, self.qualities)
        height, width = image.shape[-2:]
        if not 0 < max(height, width) <= 0xFFFF:
            raise ValueError(f"{self.name}: {width} × {height} is not in 1..65535 pixels a side")
        padded = F.pad(image.double()[None], _padding(height, width), mode="replicate")[0]
        samples = rgb_to_yuv420(padded)
        size = f"{padded.shape[2]}x{padded.shape[1]}"
        options = ["-s", size, "-c", "yuv420_10", "-r", "25", "--frames", "1"]
        options += ["--preset", self.preset, "--qp", str(qp), "--qpa", "0", "--threads", "1"]
        stream = _convert(self._app("vvencapp"), ["-i"], samples.tobytes(), options)
        return _HEADER.pack(height, width) + stream

    def decode(self, data: bytes) -> Tensor:
        if len(data) < _HEADER.size:
            raise ValueError(f"{self.name}: the file is truncated")
        height, width = _HEADER.unpack_from(data)
        stream = data[_HEADER.size :]
        raw = _convert(self._app("vvdecapp"), ["-b"], stream, ["--threads", "1"])
        _, right, _, below = _padding(height, width)
        rows, columns = height + below, width + right
        if len(raw) != rows * columns * 3:  # 1½ samples of 2 bytes a pixel
            raise ValueError(f"{self.name}: vvdecapp wrote {len(raw)} bytes for {columns}×{rows}")
        rgb = yuv420_to_rgb(np.frombuffer(raw, "<u2"), rows, columns)
        return rgb[:, :height, :width].contiguous()


VVC = VvcCodec()


def rgb_to_yuv420(rgb: Tensor) -> np.ndarray:
    """RGB ``(3, H, W)`` in 0..255, H and W even → the planes Y, Cb, Cr in a row, 10-bit ``<u2``.

    Y' = K_R R' + (1 − K_R − K_B) G' + K_B B', C_b = (B' − Y') / (2 − 2 K_B),
    C_r = (R' − Y') / (2 − 2 K_R) (BT.709); luma is 1023 Y', chroma 512 + 1023 C, rounded and
    clipped to 0..1023; chroma is the mean of 2 × 2 pixels.
    """
    y, *chroma = torch.einsum("ij,jhw->ihw", _TO_YCBCR, rgb.double() / 255)
    planes = [y * _PEAK] + [F.avg_pool2d(c[None], 2)[0] * _PEAK + _MIDDLE for c in chroma]
    samples = torch.cat([plane.flatten() for plane in planes]).round().clamp(0, _PEAK)
    return samples.numpy().astype("<u2")


def yuv420_to_rgb(samples: np.ndarray, height: int, width: int) -> Tensor:
    """The inverse of `rgb_to_yuv420`, chroma by bicubic interpolation → ``uint8`` ``(3, H, W)``."""
    values = torch.from_numpy(samples.astype(np.float64))
    y, chroma = values[: height * width], values[height * width :]
    small = chroma.reshape(1, 2, height // 2, width // 2) - _MIDDLE
    up = F.interpolate(small, scale_factor=2, mode="bicubic", align_corners=False)[0]
    ycbcr = torch.cat([y.reshape(1, height, width), up]) / _PEAK
    rgb = torch.einsum("ij,jhw->ihw", torch.linalg.inv(_TO_YCBCR), ycbcr)
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8)


def _padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    below, right = (
        max(_MIN_SIDE, -(-side // _MULTIPLE) * _MULTIPLE) - side for side in (height, width)
    )
    return 0, right, 0, below


def _convert(app: str, source: list[str], data: bytes, options: list[str]) -> bytes:
    """Run ``app <source> FILE -o FILE <options>``; what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "in"), Path(folder, "out")
        before.write_bytes(data)
        command = [app, *source, str(before), "-o", str(after), *options]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or not after.is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "without a word").splitlines()
            raise ValueError(f"{Path(app).name} failed ({done.returncode}): {said[-1]}")
        return after.read_bytes()


@functools.cache
def _version(app: str) -> str:
    """Program and version, from what ``--version`` prints."""
    done = subprocess.run([app, "--version"], capture_output=True, text=True, errors="replace")
    found = re.search(r"\d+\.\d+\.\d+\S*", done.stdout + done.stderr)
    return f"{Path(app).name} {found[0] if found else 'of unknown version'}"
