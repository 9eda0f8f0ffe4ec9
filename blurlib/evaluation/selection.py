"""From the name of a codec to what measures it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blurlib.codec import zoo
from blurlib.diffusion import Tiling
from blurlib.evaluation.baselines import (
    AVIF,
    HEIC,
    JPEG,
    JPEG_2000,
    JPEG_DEFAULT,
    JPEG_XL,
    WEBP,
    WEBP_DEFAULT,
    Baseline,
    Codec,
    MissingCodecError,
)
from blurlib.evaluation.ours import BlurlibCodec
from blurlib.evaluation.results import Extra


class Selection(NamedTuple):
    """A codec, its usual qualities, and what goes with them into a results file."""

    codec: Codec
    qualities: Sequence[float]
    checkpoint: str | None = None
    seed: int | None = None
    extra: Extra | None = None


_JPEG = (5, 8, 12, 18, 26, 36, 48, 60, 70, 80, 88)
_WEBP = (0, 3, 8, 15, 25, 35, 45, 60, 72, 80, 88)

# The qualities span about 0.1 to 1.5 bpp on photographs.
_KNOWN: tuple[tuple[Baseline, Sequence[float]], ...] = (
    (JPEG, _JPEG),
    (JPEG_2000, (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5)),
    (WEBP, _WEBP),
    (AVIF, (5, 12, 20, 28, 36, 44, 52, 60, 68, 76, 82)),
    (JPEG_XL, (5, 10, 15, 20, 30, 42, 55, 65, 74, 80, 84)),
    (HEIC, (8, 13, 18, 23, 28, 33, 38, 42, 46, 50, 53)),
    (JPEG_DEFAULT, _JPEG),
    (WEBP_DEFAULT, _WEBP),
)


def available() -> dict[str, str | None]:
    """Every known codec that is not ours → None, or why it cannot run here and what would help."""
    reasons: dict[str, str | None] = {}
    for codec, _ in _KNOWN:
        try:
            codec.prepare()
            reasons[codec.name] = None
        except MissingCodecError as error:
            reasons[codec.name] = str(error)
    return reasons


def select(
    name: str,
    decoder: str = "direct",
    denoiser: str = "",
    sampling: Mapping[str, Any] | None = None,
    tiling: Tiling | None = None,
    effort: int = 1,
) -> Selection:
    """A baseline by its name, or one of our models by name or file.

    Args:
        decoder: of our models: "direct", "diffusion", or "deterministic".
        denoiser: weights of the latter two, by name or file.
        sampling: what is to differ from the `Sampling` that suits a diffusion decoder's weights.
        tiling: the memory that either may take.
        effort: of our encoder.

    Raises:
        MissingCodecError: a baseline that cannot run here; the message says what to install.
        ValueError: neither; the message lists what there is. Or the denoiser is for another codec.
    """
    for baseline, qualities in _KNOWN:
        if name == baseline.name:
            baseline.prepare()
            return Selection(baseline, qualities)
    try:
        codec = zoo.load(name)
    except zoo.WeightsError as error:
        baselines = ", ".join(baseline.name for baseline, _ in _KNOWN)
        raise ValueError(f"no codec {name!r}: there are {baselines}; or {error}") from error
    ours = BlurlibCodec(Path(name).stem, codec, effort=effort)
    if decoder != "direct":
        load = zoo.load_denoiser if decoder == "diffusion" else zoo.load_deterministic
        on_top, digest = load(denoiser), zoo.sha256(denoiser)
        if on_top.codec_id != codec.model_id:
            raise ValueError(
                f"{denoiser} was trained for codec {on_top.codec_id.hex()}, and {name} is "
                f"{codec.model_id.hex()}: name the denoiser of that codec"
            )
        how = on_top.sampling.but(**sampling or {}) if decoder == "diffusion" else None
        ours = BlurlibCodec(ours.model, codec, on_top, digest, how, tiling or Tiling(), effort)
    seed = ours.sampling.seed if ours.decoder == "diffusion" else None
    qualities = [float(level) for level in range(1, codec.config.levels + 1)]
    return Selection(ours, qualities, zoo.sha256(name), seed, ours.extra)
