"""What the first pages of the book show: pictures at equal bytes, ten passes, learned bumps.

    python tools/front.py    write book/_static/front, anew after a change of weights

The files of JPEG, WebP and AVIF are the coded files themselves, for the browser to decode; what we
decode is stored as WebP of high quality. Which photos and which rate is fixed here, before looking
at any result. `front.js` holds the numbers that the pages show.
"""

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track
from torch import Tensor

from blurlib import checkpoints, datasets, images
from blurlib.codec import BlurCodec, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.diffusion.process import BlurDiffusion
from blurlib.diffusion.schedule import BlurSchedule
from blurlib.evaluation.codecs import AVIF, JPEG, WEBP, BlurlibCodec, match_bytes, select
from blurlib.evaluation.measure import compare
from blurlib.files import atomic_write
from experiments import plots

FRONT = Path(__file__).parents[1] / "book" / "_static" / "front"
QUALITY = 2.0
OTHERS = ((JPEG, "jpg"), (WEBP, "webp"), (AVIF, "avif"))
PASSES_WIDTH, DIFFUSED = 480, 128
PAPER, INK = "#ffffff", "#222222"


class Shown(NamedTuple):
    """A photo that can be compared, what it shows, and the corner of its crop for the still."""

    photo: str
    title: str
    description: str
    left: int
    top: int


PHOTOS = (
    Shown("china", "pagoda", "a pagoda with four painted roofs above a lake", 60, 100),
    Shown("coffee", "coffee", "a cup of coffee with a spoon on a wooden table", 60, 60),
    Shown("cat", "cat", "the face of a tabby cat", 90, 40),
)
STILL = PHOTOS[0]
CROP = 300, 210


def webp(image: Tensor, quality: int = 88) -> bytes:
    file = io.BytesIO()
    images.to_pillow(image).save(file, "webp", quality=quality, method=6)
    return file.getvalue()


def write(name: str, data: bytes) -> None:
    FRONT.mkdir(parents=True, exist_ok=True)
    atomic_write(FRONT / name, data, overwrite=True)


def compared(shown: Shown, ours: dict[str, BlurlibCodec]) -> tuple[dict, dict[str, Tensor]]:
    """Writes the pictures of one photo; its numbers by codec, and the pictures as tensors.

    ours: the direct decoder and the perceptual one, each with its codec.
    """
    photo = datasets.embedded(shown.photo)
    size = len(ours["direct"].encode(photo, QUALITY))
    entries, pictures = {}, {"original": photo}
    raw = {"file": f"{shown.photo}-original.webp", "bytes": photo.numel()}
    write(raw["file"], webp(photo))
    for name, codec in ours.items():
        data = codec.encode_to(photo, size)
        pictures[name] = codec.decode(data)
        entries[name] = numbers(photo, data, pictures[name], f"{shown.photo}-{name}.webp")
        write(entries[name]["file"], webp(pictures[name]))
    for baseline, suffix in OTHERS:
        name, coded = baseline.name, match_bytes(baseline, photo, size).data
        pictures[name] = baseline.decode(coded)
        entries[name] = numbers(photo, coded, pictures[name], f"{shown.photo}-{name}.{suffix}")
        write(entries[name]["file"], coded)
    _, height, width = photo.shape
    about = {"title": shown.title, "description": shown.description}
    return {
        **about,
        "width": width,
        "height": height,
        "pictures": {"original": raw, **entries},
    }, pictures


def numbers(photo: Tensor, data: bytes, picture: Tensor, file: str) -> dict:
    found = compare(photo, data, picture)
    return {
        "file": file,
        "bytes": found.bytes,
        "bpp": round(found.bpp, 3),
        "ms_ssim": round(found.ms_ssim, 4),
        "psnr": round(found.psnr, 2),
    }


@torch.inference_mode()
def ten_passes(codec: BlurCodec, name: str = "coffee") -> dict:
    """Writes pass-00.webp to pass-10.webp: the direct picture when the values of the first passes
    are known and all others are at the mean that the entropy model expects of them."""
    photo = datasets.embedded(name)
    data = codec.compress(images.to_float(photo)[None], QUALITY)
    file = BlurFile.from_bytes(data)
    latent = codec.decode_latent(file)
    quality = torch.tensor([file.quality], dtype=torch.float64)
    z_hat = codec.entropy.hyper_latent.values(latent.z_symbols)
    hyperprior = codec.hyperprior(z_hat, codec.gain(quality))
    size = PASSES_WIDTH, round(PASSES_WIDTH * file.height / file.width)
    # What no pass accounts for: the header, the hyper-latent, and what a range coder rounds up.
    fixed = len(data) - sum(float(coded.bits) for coded in latent.passes) / 8
    frames, bits = [], 0.0
    for known in range(len(latent.passes) + 1):
        remaining = iter(range(len(latent.passes)))

        def code(here, gaussian, known=known, remaining=remaining):
            told = next(remaining) < known
            return here.of(latent.y_hat) if told else gaussian.mu

        y_hat = codec.entropy.walk(hyperprior, code)
        x_hat = codec.reconstruct(y_hat, quality).x_hat[0, :, : file.height, : file.width]
        picture = images.to_pillow(images.to_uint8(x_hat)).resize(size, Image.Resampling.LANCZOS)
        frame = f"pass-{known:02d}.webp"
        write(frame, webp(images.from_pillow(picture), quality=82))
        bits += float(latent.passes[known - 1].bits) if known else 0.0
        psnr = compare(photo, data, images.to_uint8(x_hat)).psnr
        frames.append({"file": frame, "bytes": round(fixed + bits / 8), "psnr": round(psnr, 1)})
    groups = [*codec.config.entropy.groups]
    return {"width": size[0], "height": size[1], "groups": groups, "frames": frames}


def laplacian(codec: BlurCodec) -> list[dict]:
    """A and σ as learned, of each group that attends."""
    learned = [group.global_.position for group in codec.entropy.groups]
    return [{"A": round(p.amplitude.item(), 2), "sigma": round(p.sigma.item(), 2)} for p in learned]


def square_photo() -> Tensor:
    photo = images.to_pillow(datasets.embedded("astronaut"))
    return images.from_pillow(photo.resize((DIFFUSED, DIFFUSED)))


def small_photo() -> str:
    """A square photo as an address that holds it: a page from the disk may not read a file."""
    data = webp(square_photo(), quality=90)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def stands_in(learned: list[dict]) -> None:
    """The stills of what scripts draw: the learned bumps, and a photo on its way into noise."""
    distance = torch.linspace(0, 7, 71)
    bumps = {
        f"group {j + 1}": (a["A"] * torch.exp(-distance / (2 * a["sigma"] ** 2))).tolist()
        for j, a in enumerate(learned)
    }
    panel = plots.Lines(distance.tolist(), bumps, "|Δx| + |Δy|", "added to the logit")
    write("laplacian.svg", plots.to_svg(plots.lines([panel]), "Learned bumps").encode())
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=12.0))
    x = 2 * images.to_float(square_photo())[None] - 1
    drawn = torch.Generator().manual_seed(1)
    eps = torch.randn(x.shape, generator=drawn)
    frames = [process.q_sample(x, t, eps)[0] / 2 + 0.5 for t in (0.0, 0.25, 0.5, 0.75)]
    write("diffused.webp", webp(images.to_uint8(torch.cat(frames, 2))))


def labelled(pictures: dict[str, Tensor], content: dict, scale: float = 1.0) -> Image.Image:
    """The still: four crops, two by two, each with its name and bytes below."""
    big, small = (
        ImageFont.truetype(_font(bold), round(size * scale)) for bold, size in ((1, 25), (0, 21))
    )
    width, height = (round(side * scale) for side in CROP)
    gap, foot = round(10 * scale), round(62 * scale)
    sheet = Image.new("RGB", (2 * width + gap, 2 * (height + foot)), PAPER)
    draw = ImageDraw.Draw(sheet)
    names = {"original": "original", "jpeg": "JPEG", "avif": "AVIF", "direct": "blurlib"}
    for i, (key, name) in enumerate(names.items()):
        left, top = i % 2 * (width + gap), i // 2 * (height + foot)
        x, y = STILL.left, STILL.top
        crop = images.to_pillow(pictures[key]).crop((x, y, x + CROP[0], y + CROP[1]))
        sheet.paste(crop.resize((width, height), Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + height + 4 * scale), name, INK, big)
        size = content["pictures"][key]["bytes"]
        draw.text((left, top + height + 32 * scale), f"{size:,} bytes", INK, small)
    return sheet


def _font(bold: int) -> str:
    from matplotlib import font_manager

    return font_manager.findfont(font_manager.FontProperties(weight="bold" if bold else "normal"))


def stills(pictures: dict[str, Tensor], content: dict) -> None:
    """still.webp for README and for readers without scripts, card.jpg for shared links."""
    for name, picture, how in (
        ("still.webp", labelled(pictures, content), {"quality": 90, "method": 6}),
        ("card.jpg", card(labelled(pictures, content)), {"quality": 88}),
    ):
        file = io.BytesIO()
        picture.save(file, **{"format": Path(name).suffix[1:].replace("jpg", "jpeg"), **how})
        write(name, file.getvalue())


def card(still: Image.Image) -> Image.Image:
    """The name at the left, the still at the right, in the 1200 × 630 of shared links."""
    sheet = Image.new("RGB", (1200, 630), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((60, 190), "blurlib", INK, ImageFont.truetype(_font(1), 84))
    lines = "a neural image codec\nwith two decoders,\nto read and to run"
    draw.multiline_text((60, 310), lines, INK, ImageFont.truetype(_font(0), 36), spacing=14)
    height = 590
    width = round(still.width * height / still.height)
    sheet.paste(still.resize((width, height), Image.Resampling.LANCZOS), (1200 - width - 30, 20))
    return sheet


def save(content: dict) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    head = "// Made by tools/front.py.\n"
    write("front.js", f"{head}const FRONT = {text};\n".encode())


def main() -> None:
    photos, codec = {}, zoo.load()
    ours = {
        "direct": BlurlibCodec(checkpoints.CODEC, codec),
        "perceptual": select(checkpoints.PERCEPTUAL, "diffusion", checkpoints.DENOISER).codec,
    }
    for shown in track(PHOTOS, "photos at equal bytes"):
        photos[shown.photo], pictures = compared(shown, ours)
        if shown is STILL:
            stills(pictures, photos[shown.photo])
    learned = laplacian(codec)
    stands_in(learned)
    names = checkpoints.CODEC, checkpoints.PERCEPTUAL, checkpoints.DENOISER
    weights = {name: zoo.sha256(name) for name in names}
    content = {
        "weights": weights,
        "photos": photos,
        "passes": ten_passes(codec),
        "laplacian": learned,
    }
    save({**content, "photo": small_photo()})


if __name__ == "__main__":
    main()
