"""From the name of a codec to what measures it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blurlib.codec import zoo
from blurlib.evaluation.baselines import AVIF, BASELINES, JPEG, WEBP, Codec
from blurlib.evaluation.ours import BlurlibCodec
from blurlib.evaluation.results import Extra

# Chosen to span about 0.1 to 1.5 bpp on photographs.
QUALITIES = {
    JPEG.name: (5, 8, 12, 18, 26, 36, 48, 60, 70, 80, 88),
    WEBP.name: (0, 3, 8, 15, 25, 35, 45, 60, 72, 80, 88),
    AVIF.name: (5, 12, 20, 28, 36, 44, 52, 60, 68, 76, 82),
}


class Selection(NamedTuple):
    """A codec, its usual qualities, and what goes with them into a results file."""

    codec: Codec
    qualities: Sequence[float]
    checkpoint: str | None = None
    seed: int | None = None
    extra: Extra | None = None


def select(name: str, decoder: str = "direct", denoiser: str = "", steps: int = 17) -> Selection:
    """A baseline by its name, or one of our models by name or file.

    Raises:
        ValueError: neither; the message lists what there is.
    """
    for baseline in BASELINES:
        if name == baseline.name:
            return Selection(baseline, QUALITIES[name])
    try:
        codec = zoo.load(name)
    except zoo.WeightsError as error:
        baselines = ", ".join(baseline.name for baseline in BASELINES)
        raise ValueError(f"no codec {name!r}: there are {baselines}; or {error}") from error
    ours = BlurlibCodec(Path(name).stem, codec)
    if decoder == "diffusion":
        diffusion, digest = zoo.load_denoiser(denoiser), zoo.sha256(denoiser)
        ours = BlurlibCodec(Path(name).stem, codec, diffusion, digest, steps)
    seed = ours.seed if ours.diffusion else None
    qualities = [float(level) for level in range(1, codec.config.levels + 1)]
    return Selection(ours, qualities, zoo.sha256(name), seed, ours.extra)
