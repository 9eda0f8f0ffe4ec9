"""What a training run is: a frozen dataclass that is also a TOML file."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tomli_w
import torch
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from blurlib.codec import Objective
from blurlib.diffusion import BlurSchedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"
MAGNIFIED = 10.0  # LPIPS is asked of no picture whose errors are those of ε̂ times more than this

From0To1 = Annotated[float, Field(ge=0, le=1)]
Above0To1 = Annotated[float, Field(gt=0, le=1)]
From0Below1 = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class TrainConfig:
    """One training run. ValueError: a value that cannot be, or two that do not go together."""

    # What is trained
    #
    #: A codec; a denoiser on a frozen codec; or codec and denoiser, the codec for what the denoiser
    #: makes of it
    stage: Literal["codec", "denoiser", "joint"] = "codec"
    size: Literal["small", "paper"] = "small"  #: of all networks
    codec: str = ""  #: name or file of the frozen codec
    #: File of weights to start with: of a codec (transforms and gains, with an entropy model of the
    #: same shape that too), or for a denoiser on a frozen codec of a denoiser
    init: str = ""
    #: Of a codec without init: its transforms as the Karhunen–Loève transform of training photos
    #: (blurlib.training.klt), or random
    start: Literal["klt", "random"] = "klt"
    #: Distortion of a codec: 1 − MS-SSIM, 255² · MSE, or that + 2500 · LPIPS; a joint run has
    #: the denoiser's loss for it
    objective: Literal["ms-ssim", "mse", "mse+lpips"] = "ms-ssim"
    lmbda_min: PositiveFloat = 1.5  #: λ at the first quality level
    lmbda_max: PositiveFloat = 300.0  #: λ at the last; geometric in between
    #: Weight of the grid of blocks in a codec's distortion (blurlib.training.losses.distortion)
    grid: NonNegativeFloat = 0.0
    #: Of the denoiser. "residual" is measured against the usual errors of a finished codec
    #: (blurlib.diffusion.BlurDiffusion)
    prediction: Literal["x", "eps", "v", "residual"] = "x"
    #: Whether a denoiser of a "residual" is told σ of the latent, quality and PSNR, beside the
    #: features of the main decoder (blurlib.codec.synthesis.DiffusionDecoder.conditions)
    told: bool = False
    #: Times for training: alike in t, or in log-SNR, as the times of a chain of steps are
    spacing: Literal["uniform", "logsnr"] = "uniform"
    sigma_blur_max: NonNegativeFloat = 20.0  #: strongest blur in pixels; 0 is isotropic diffusion
    #: Log of signal over noise (power) where a chain starts, t = 1. −10 hides a photo; of a
    #: "residual", whose power is a hundredth of a photo's, 0 hides nearly all
    logsnr_min: float = -10.0
    #: Weight ρ of LPIPS beside diffusion or MSE (blurlib.training.losses.perceptual)
    rho: From0To1 = 0.3
    #: LPIPS is applied where t is below this; above, x̂ is a guess of the mean. With "eps" it is
    #: refused where x̂ magnifies the errors of ε̂ more than tenfold
    lpips_t_max: From0To1 = 0.7
    #: Steps of a chain from noise to picture, whose end a denoiser is trained for in the last part
    #: of its run, with (1 − ρ) · MSE + ρ · LPIPS; it is then sampled in as many. 0: it is not
    unroll_steps: Annotated[int, Field(ge=0, le=16)] = 0
    unroll_last: From0To1 = 0.25  #: that part
    #: Noise that unrolled chains start from, and those that decode unless told otherwise: 1 is all
    #: of it. 0, with unroll_steps 1 and unroll_last 1, is a deterministic decoder
    start_scale: NonNegativeFloat = 1.0

    # Data
    #
    #: A folder of photos or of Vimeo-90k (blurlib.training.data)
    data: str = ""
    held_out: NonNegativeInt = 100  #: every so many-th photo or clip is not trained on (0: all are)
    #: A set of at most so many GB decoded is cropped in the memory of the training device; a larger
    #: one is read again for every crop
    bank_gb: NonNegativeFloat = 4.0
    workers: NonNegativeInt = 4  #: processes that read a larger set; 0: the training process
    batch: PositiveInt = 4  #: photos per step and process
    crop: Annotated[int, Field(ge=64, multiple_of=64)] = 256  #: side of a photo in pixels

    # Optimisation
    steps: NonNegativeInt = 0  #: length of the run; 0: from max_minutes and the measured speed
    max_minutes: PositiveFloat = 40.0  #: time box of a run without steps
    lr: PositiveFloat = 1e-3  #: learning rate at its peak
    #: Muon for every weight that is a matrix or a convolution over all channels, Adam for the rest;
    #: or Adam for all
    optimiser: Literal["adam", "muon"] = "adam"
    momentum: From0Below1 = 0.95  #: of Muon
    #: Part of lr for the convolutions of g_a and the main decoder: a KLT to start with is soon
    #: unlearnt at the rate that suits the entropy model
    lr_transforms: Above0To1 = 0.1
    lr_blocks: Above0To1 = 0.3  #: the same for the gated blocks between them
    warmup: PositiveInt = 100  #: steps
    #: Last part of the run, in which the learning rate falls to 1 % (a cosine). With less than 1, a
    #: run can be made longer until that part begins
    decay: Above0To1 = 1.0
    z_warmup: PositiveInt = 1000  #: steps until the hyper-latent pays its rate in full
    clip: PositiveFloat = 1.0  #: of the norm of the gradient
    ema: From0Below1 = 0.998  #: decay of the averaged weights
    seed: NonNegativeInt = 0  #: of weights and draws; photo i of step s draws from (seed, s, i)

    # Machine
    checkpoint_every: NonNegativeFloat = 120.0  #: seconds
    checkpointing: bool = False  #: of the denoiser's gradient: less memory, more time
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  #: of the CPU; 0 leaves PyTorch's choice
    # As in Lightning Fabric
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  #: "auto": a GPU if there is one
    devices: PositiveInt = 1  #: per machine
    nodes: PositiveInt = 1  #: machines
    strategy: Literal["auto", "ddp"] = "auto"  #: how they work together
    #: "bf16-mixed": matrix products of the transforms, the denoiser, LPIPS and Muon in bfloat16,
    #: which needs a GPU from 2020 on or a processor with AMX; all else stays in float32
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self):
        for name, rule in _rules().items():
            value = getattr(self, name)
            try:
                rule.validate_python(value)
            except ValidationError as error:
                wrong = error.errors()[0]["msg"].replace("Input should", "it must")
                raise ValueError(f"{name} is {value!r}: {wrong}") from None
        for conflict in self._conflicts():
            raise ValueError(conflict)

    def _conflicts(self) -> Iterator[str]:
        """Values that do not go together, in words."""
        if self.lmbda_min >= self.lmbda_max:
            yield f"lmbda_min is {self.lmbda_min}: it must be below lmbda_max, {self.lmbda_max}"
        if self.stage == "codec" and self.objective == "ms-ssim" and self.crop < 192:
            yield f"crop is {self.crop}: MS-SSIM needs at least 161 px, so crop >= 192"
        BlurSchedule(self.sigma_blur_max, logsnr_min=self.logsnr_min)  # refuses what cannot be
        of_eps = self.prediction == "eps" and self.rho and self.stage != "codec"
        if of_eps and self.lpips_t_max > (latest := self._latest_lpips()):
            yield (
                f"lpips_t_max is {self.lpips_t_max:g}: with prediction 'eps' x̂ is too wrong there "
                f"for LPIPS; it must be at most {latest:.2f}, or prediction 'x' or 'v', or rho 0"
            )
        if self.stage == "denoiser" and not self.codec:
            yield "codec is empty: name the codec that the denoiser belongs to"
        if not self.start_scale and (not self.unroll_steps or self.prediction in ("eps", "v")):
            yield "start_scale is 0: it needs unroll_steps above 0 and prediction 'x' or 'residual'"
        if self.unroll_steps and self.stage != "denoiser":
            yield f"unroll_steps is {self.unroll_steps}: only stage 'denoiser' has chains to unroll"
        if self.told and self.prediction != "residual":
            yield f"told is true with prediction {self.prediction!r}: it must be 'residual'"
        if self.stage == "joint" and self.prediction == "residual":
            yield (
                "prediction is 'residual', which needs a finished codec: in joint training it must "
                "be 'x', 'eps' or 'v'"
            )

    def _latest_lpips(self) -> float:
        """The last time at which x̂ = (u_t − σ_t ε̂)/α_t magnifies errors of ε̂, by σ_t/α_t, at most
        `MAGNIFIED` times at the highest frequency."""
        schedule = BlurSchedule(self.sigma_blur_max, logsnr_min=self.logsnr_min)
        times = torch.linspace(0, 1, 101, dtype=torch.float64)
        alphas = (schedule.alpha(t, self.crop, self.crop) for t in times.tolist())
        lowest = torch.stack([alpha.amin() for alpha in alphas])
        return times[schedule.sigma(times) / lowest <= MAGNIFIED].max().item()

    @property
    def slowdown(self) -> float:
        """About how many times longer than the first the mean step takes: one more evaluation is a
        third of a step of the CPU recipe, and counts as half. 1 where all steps are unrolled."""
        return 1 + self.unroll_last % 1 * max(0, self.unroll_steps - 1) / 2

    @property
    def target(self) -> Objective:
        """What a codec is trained for."""
        distortion = "perceptual" if self.stage == "joint" else self.objective
        return Objective(distortion, self.lmbda_min, self.lmbda_max)

    def to_toml(self) -> str:
        return tomli_w.dumps(asdict(self))

    @classmethod
    def from_toml(cls, text: str, **overrides: Any) -> TrainConfig:
        """Read a recipe; `overrides` win over it, None leaves the recipe's value. ValueError: not
        TOML, an unknown field, a value that cannot work, or squared error with λ for MS-SSIM.
        """
        try:
            values = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ValueError(f"the recipe is not valid TOML: {error}") from error
        given = {k: v for k, v in overrides.items() if v is not None}
        if "objective" in given and given["objective"] != values.get("objective", cls.objective):
            values = {k: v for k, v in values.items() if not k.startswith("lmbda_")}  # not for it
        values |= given
        names = [f.name for f in fields(cls)]
        for unknown in sorted(values.keys() - set(names)):
            near = difflib.get_close_matches(unknown, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(names)}"
            raise ValueError(f"unknown field {unknown!r} in the recipe: {hint}")
        objective, of_codec = str(values.get("objective")), values.get("stage", "codec") == "codec"
        usual = {"mse": "0.001 and 0.06", "mse+lpips": "0.0003 and 0.006"}.get(objective)
        if of_codec and usual and not {"lmbda_min", "lmbda_max"} <= values.keys():
            raise ValueError(
                f"objective is {objective!r} without lmbda_min and lmbda_max, whose defaults are "
                f"for 'ms-ssim': {usual} are usual for {objective!r}"
            )
        return cls(**values)

    @classmethod
    def recipe(cls, name_or_path: str, **overrides: Any) -> TrainConfig:
        """A shipped recipe by name, or a TOML file by path."""
        shipped = RECIPES / f"{name_or_path}.toml"
        path = shipped if shipped.is_file() else Path(name_or_path)
        if not path.is_file():
            names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
            raise ValueError(f"no recipe {name_or_path!r}: shipped recipes are {names}")
        return cls.from_toml(path.read_text(encoding="utf-8"), **overrides)


def assigned(changes: Sequence[str]) -> dict[str, Any]:
    """Fields by name from texts such as "lr=1e-3" or "stage=denoiser": a value is one of TOML, or
    else a string as it stands. ValueError for a text without "="."""
    found = {}
    for change in changes:
        name, given, text = change.partition("=")
        if not given:
            raise ValueError(f"{change!r} sets nothing: give field=value, such as batch=8")
        try:
            found[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            found[name.strip()] = text
    return found


@functools.cache
def _rules() -> dict[str, TypeAdapter]:
    """What each field may be, by name."""
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    hints = get_type_hints(TrainConfig, include_extras=True)
    return {f.name: TypeAdapter(hints[f.name], config=strict) for f in fields(TrainConfig)}
