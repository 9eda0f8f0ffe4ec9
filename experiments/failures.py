"""What typical failures look like: the pictures of book/failures.md.

    python -m experiments.failures [CODEC [LIVING]]

Made with a shipped codec, or another one by name or path; LIVING is one whose hyper-latent is used.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from blurlib import checkpoints, datasets, images, metrics
from blurlib.codec import BlurCodec, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Prior, error_spectrum
from blurlib.diffusion.prior import error_variance
from blurlib.entropy import PassCoder
from blurlib.entropy.coder import DecodingError
from blurlib.entropy.context import Gaussian
from blurlib.entropy.model import Pass
from blurlib.metrics import Lpips, lpips_file
from blurlib.training.klt import start_from_klt
from experiments.plots import boxed
from experiments.record import ROOT

FOLDER = ROOT / "book" / "figures"
SIDE = 192
QUALITY = 3.0


@boxed
def write(name: str, panels: dict[str, Tensor], columns: int = 2) -> None:
    """Pictures, uint8 (3, H, W), and maps, (H, W), with a title each, as a small WebP."""
    rows = -(-len(panels) // columns)
    largest = max((float(map_.max()) for map_ in panels.values() if map_.dim() == 2), default=1)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.85 * rows), dpi=100)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, panels.items(), strict=False):
        axis.set_title(title)
        if picture.dim() == 3:
            axis.imshow(picture.permute(1, 2, 0))
        else:
            axis.imshow(picture, cmap="magma", vmin=0, vmax=largest)
    file = FOLDER / f"failure-{name}.webp"
    figure.savefig(file, pil_kwargs={"quality": 85, "method": 6})
    plt.close(figure)


def crop(name: str, top: int, left: int, side: int = SIDE) -> Tensor:
    return datasets.embedded(name)[:, top : top + side, left : left + side]


def streams(codec: BlurCodec) -> dict[str, Tensor]:
    """A file decoded as it is, and three ways to decode it wrongly if no checksum were there."""
    x = images.to_float(crop("coffee", 60, 330))[None]
    file = BlurFile.from_bytes(codec.compress(x, QUALITY))
    damaged = bytearray(file.y_stream)
    damaged[len(damaged) // 8] ^= 1

    def decoded(file: BlurFile, more: float = 0.0) -> Tensor:
        """more: added to log₂ σ of one symbol of the first pass."""

        def watch(code: PassCoder) -> PassCoder:
            def coded(here: Pass, gaussian: Gaussian) -> Tensor:
                if here.channels.start == 0 and here.mask[0, 0]:
                    gaussian.log2_sigma[0, 0, here.mask[:2].sum() + 1] += more  # of (2, 2)
                try:
                    return code(here, gaussian)
                except DecodingError:  # no symbol fits any more: the rest is what is expected
                    return gaussian.mu

            return coded

        latent = codec.decode_streams(file, watch)
        quality = torch.tensor([file.quality], dtype=torch.float64)
        return images.to_uint8(codec.reconstruct(latent.y_hat, quality).x_hat[0, :, :SIDE, :SIDE])

    return {
        "as written": decoded(file),
        "one bit flipped": decoded(replace(file, y_stream=bytes(damaged))),
        "quality 3 read as 3.1": decoded(replace(file, quality=3 + 26 / 256)),
        "one σ rounded otherwise": decoded(file, more=1 / 16),
    }


@torch.inference_mode()
def hyper(codec: BlurCodec) -> dict[str, Tensor]:
    """σ that the anchors of group 1 are given, with z and with z at its median everywhere: of the
    channel that z moves most."""
    photo = datasets.embedded("astronaut")
    x = images.to_float(photo)[None]
    gain = codec.gain(torch.tensor([1.0], dtype=torch.float64))
    hyper_latent, group = codec.entropy.hyper_latent, codec.entropy.groups[0]
    z = codec.h_a(codec.g_a(x) * gain.to(x.dtype)).double()

    def log2_sigma(z: Tensor) -> Tensor:
        features = codec.hyperprior(hyper_latent.values(hyper_latent.symbols(z)), gain).features
        H, W = features.shape[-2:]
        known = group.known(features, z.new_zeros(1, 0, H, W))
        gaussian = group.gaussian(known, torch.ones(H, W, dtype=torch.bool))
        return gaussian.log2_sigma[0].unflatten(-1, (H, W))

    alive, dead = log2_sigma(z), log2_sigma(hyper_latent.medians.expand_as(z))
    channel = int((alive - dead)[:, 2:-2, 2:-2].var((1, 2)).argmax())
    anchors = slice(2, -2, 2)
    maps = [sigma[channel, anchors, anchors].exp2() for sigma in (alive, dead)]
    return {"photo": photo, "σ, z in use": maps[0], "σ, z constant": maps[1]}


@torch.no_grad()
def grid() -> dict[str, Tensor]:
    """A transform of blocks, and one that laps over their borders, with equally coarse steps."""
    names = datasets.embedded_names()
    photos = torch.stack([datasets.embedded(name)[:, :288, :384] for name in names])
    found = {"photo": crop("cat", 30, 130)}
    for title, lapped in (("blocks that do not overlap", False), ("blocks that overlap", True)):
        codec = BlurCodec().eval()
        start_from_klt(codec, images.to_float(photos), lapped)
        y = codec.g_a(images.to_float(found["photo"])[None])
        step = 1.6
        found[title] = images.to_uint8(codec.main_decoder((y / step).round() * step).x_hat[0])
    return found


def perceptual(codec: BlurCodec, steps: int = 60) -> dict[str, Tensor]:
    """The main decoder trained on for a minute, with ever more LPIPS in its loss."""
    lpips = Lpips.load("squeeze", datasets.cached_weights(lpips_file("squeeze")))
    drawn = torch.Generator().manual_seed(0)

    def somewhere(photo: Tensor, side: int = 128) -> Tensor:
        top, left = (int(torch.randint(n - side, (), generator=drawn)) for n in photo.shape[1:])
        return photo[:, top : top + side, left : left + side]

    names = [name for name in datasets.embedded_names() if name != "coffee"]
    crops = [somewhere(datasets.embedded(name)) for name in names for _ in range(6)]
    x, test = images.to_float(torch.stack(crops)), crop("coffee", 60, 330)
    quality = torch.full((1,), 2.0, dtype=torch.float64)
    with torch.no_grad():
        y = torch.cat([codec(one[None], 2.0).y_hat for one in x])
        y_test = codec(images.to_float(test)[None], 2.0).y_hat

    def picture(codec: BlurCodec) -> Tensor:
        with torch.no_grad():
            return images.to_uint8(codec.reconstruct(y_test, quality).x_hat[0])

    def trained_on(rho: float) -> Tensor:
        trained, order = copy.deepcopy(codec), torch.Generator().manual_seed(1)
        adam = torch.optim.Adam(trained.main_decoder.parameters(), 1e-3)
        for _ in range(steps):
            chosen = torch.randint(len(x), (4,), generator=order)
            x_hat = trained.reconstruct(y[chosen], quality.expand(4)).x_hat
            far = lpips(x_hat, x[chosen]).mean() if rho else 0
            adam.zero_grad()
            ((1 - rho) * 100 * (x_hat - x[chosen]).square().mean() + rho * far).backward()
            adam.step()
        return picture(trained)

    found = {"before": picture(codec)} | {f"ρ = {rho:g}": trained_on(rho) for rho in (0, 0.4, 1)}
    return {f"{name}: {metrics.psnr(test, p):.1f} dB": p for name, p in found.items()}


def schedules() -> dict[str, Tensor]:
    """What a perfect linear denoiser sees at the end of two chains, and ε with an error of 1 %."""
    photo = crop("cat", 60, 150, 128)
    x = 2 * images.to_float(photo)[None] - 1
    spectrum = error_spectrum(x).expand(2, -1)
    variance = error_variance(spectrum, torch.tensor([1.0]), *x.shape[-2:])
    schedule = BlurSchedule(sigma_blur_max=20)
    of_pictures = BlurDiffusion(schedule, "residual", Prior(torch.zeros_like(x), variance))
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def end(spacing: str) -> Tensor:
        t = schedule.times(6, spacing)[-1]  # type: ignore[arg-type]
        return of_pictures.x_hat(of_pictures.q_sample(x, t, eps), torch.zeros_like(x), t)

    t, off = 0.2, 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    predicts_eps = BlurDiffusion(schedule, "eps")
    burst = predicts_eps.x_hat(predicts_eps.q_sample(x, t, eps), eps + off, t)
    pictures = {
        "last step at even log-SNR": end("logsnr"),
        "last step at even t": end("uniform"),
        "ε off by 1 %, t = 0.2": burst,
    }
    shown = {name: images.to_uint8((p[0].clamp(-1, 1) + 1) / 2) for name, p in pictures.items()}
    return {"photo": photo, **shown}


def main(model: str = checkpoints.CODEC, living: str = "mse-small") -> None:
    codec = zoo.load(model)
    torch.set_num_threads(1)
    write("streams", streams(codec))
    write("hyper", hyper(zoo.load(living)))
    write("grid", grid())
    write("lpips", perceptual(codec))
    write("schedule", schedules())


if __name__ == "__main__":
    main(*sys.argv[1:])
