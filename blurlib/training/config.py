"""What a training run is: a frozen dataclass that is also a TOML file."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import tomli_w
import torch

from blurlib.codec import Objective
from blurlib.diffusion import BlurSchedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"
MAGNIFIED = 10.0  # LPIPS is asked of no picture whose errors are those of ε̂ times more than this


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        stage: "codec", "denoiser" on a frozen codec, "deterministic": a decoder of the denoiser's
            size on a frozen codec, without noise and time, or "joint": codec and denoiser at once,
            the codec for what the denoiser makes of it.
        size: "small" or "paper".
        codec: for the denoiser or deterministic decoder: name or file of its codec.
        init: file of a codec whose transforms and gains the run starts with; with an entropy model
            of the same shape, that too. For the stages on a frozen codec: file of a denoiser, or of
            a deterministic decoder, whose weights the run starts with.
        start: of a codec without `init`: its transforms as the Karhunen–Loève transform of training
            photos (`blurlib.codec.klt`), or random.
        objective: distortion of the codec: "ms-ssim" (1 − MS-SSIM) or "mse" (255² · MSE). A joint
            run has the denoiser's loss in its place.
        lmbda_min, lmbda_max: λ at the first and last quality level, geometric in between.
        prediction: what the denoiser predicts: "x", "eps", "v", or "residual", which is measured
            against the usual errors of a finished codec (`blurlib.diffusion.BlurDiffusion`). A
            deterministic decoder predicts "x", or "residual": the same in units of those errors.
        loss_weight: which errors of the denoiser weigh the same at every time and frequency: ""
            those of its output, or "x", "eps", "v", "min-snr" (`BlurDiffusion.loss_weight`).
        spacing: how times are drawn for training: "uniform", or alike in log-SNR, as the times of a
            chain of steps are.
        sigma_blur_max: strongest blur in pixels; 0 is isotropic diffusion.
        logsnr_min: log of signal over noise (power) where a chain starts, t = 1. −10 hides a photo;
            of a "residual", whose power is a hundredth of a photo's, 0 hides nearly all.
        rho: weight of LPIPS in the denoiser's loss, (1 − ρ) · 5 · diffusion + ρ · LPIPS; in the
            deterministic decoder's, MSE stands for diffusion. For "residual", 1 stands for 5, and
            LPIPS is in units of that of the direct picture.
        lpips_t_max: LPIPS is applied where t is below this; above, x̂ is a guess of the mean. With
            "eps" it is refused where x̂ magnifies the errors of ε̂ more than tenfold.
        data: where the photos are: a folder of them, of Vimeo-90k, or of .tar shards; or a pattern
            of shards such as "/disk?/set/*.tar". `blurlib.training.data` says more.
        held_out: every so many-th photo (of Vimeo-90k: clip), from the first in order of name, is
            not trained on (0: all are).
        bank_gb: a set that takes at most this much memory decoded, in GB, is decoded once and
            cropped on the training device; a larger one is read again for every crop.
        workers: processes that read a larger set; 0 reads in the training process.
        batch, crop: photos per step *and process*, and their side in pixels.
        steps: length of the run; 0 means: from `max_minutes` and the measured speed.
        max_minutes: time box.
        lr, warmup, clip, ema: peak learning rate, warm-up steps, gradient norm, decay of the
            averaged weights.
        optimiser: "muon" for every weight that is a matrix or a convolution over all channels, with
            Adam for the rest, or "adam" for all; momentum: of Muon.
        lr_transforms: learning rate of the convolutions of g_a and the main decoder, as a part of
            `lr`: a KLT to start with is soon unlearnt at the rate that suits the entropy model.
        lr_blocks: that of the gated blocks between them.
        decay: last part of the run in which the learning rate falls to 1 % (a cosine). 1 is a
            cosine over the whole run; with less, a run can be made longer until that part begins.
        z_warmup: steps until the hyper-latent pays its rate in full.
        seed: of weights, crops, λ and noise; photo i of step s draws from (seed, s, i) alone.
        checkpoint_every: seconds between checkpoints.
        checkpointing: the denoiser keeps less for its gradient and computes the rest again: less
            memory, more time.
        threads: CPU threads; 0 leaves PyTorch's choice.
        accelerator, devices, nodes, strategy, precision: as in Lightning Fabric: what to train on
            ("auto": a GPU if there is one), how many of them per machine, how many machines, how
            they work together, and "32-true" or "bf16-mixed" (the transforms and the denoiser in
            bfloat16; entropy model, likelihoods, losses and weights stay in float32).
    """

    stage: Literal["codec", "denoiser", "deterministic", "joint"] = "codec"
    size: Literal["small", "paper"] = "small"
    codec: str = ""
    init: str = ""
    start: Literal["klt", "random"] = "klt"
    objective: Literal["ms-ssim", "mse"] = "ms-ssim"
    lmbda_min: float = 1.5
    lmbda_max: float = 300.0
    prediction: Literal["x", "eps", "v", "residual"] = "x"
    loss_weight: Literal["", "x", "eps", "v", "min-snr"] = ""
    spacing: Literal["uniform", "logsnr"] = "uniform"
    sigma_blur_max: float = 20.0
    logsnr_min: float = -10.0
    rho: float = 0.3
    lpips_t_max: float = 0.7
    data: str = ""
    held_out: int = 100
    bank_gb: float = 4.0
    workers: int = 4
    batch: int = 4
    crop: int = 256
    steps: int = 0
    max_minutes: float = 40.0
    lr: float = 1e-3
    optimiser: Literal["adam", "muon"] = "adam"
    momentum: float = 0.95
    lr_transforms: float = 0.1
    lr_blocks: float = 0.3
    warmup: int = 100
    decay: float = 1.0
    z_warmup: int = 1000
    clip: float = 1.0
    ema: float = 0.998
    seed: int = 0
    checkpoint_every: float = 120.0
    checkpointing: bool = False
    threads: int = 0
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self):
        for field in fields(self):
            self._check_type(field.name, type(field.default))
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                self._allow(name, get_args(kind))
        if not 0 < self.lmbda_min < self.lmbda_max:
            raise ValueError(
                f"lmbda_min is {self.lmbda_min} and lmbda_max {self.lmbda_max}: "
                "they must be positive and in rising order"
            )
        for name in ("lr_transforms", "lr_blocks"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be in (0, 1]")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}: it must be from 0 to below 1")
        if self.crop % 64 or self.crop < 64:
            raise ValueError(f"crop is {self.crop}: it must be a positive multiple of 64")
        if self.stage == "codec" and self.objective == "ms-ssim" and self.crop < 192:
            raise ValueError(f"crop is {self.crop}: MS-SSIM needs at least 161 px, so crop >= 192")
        if self.batch < 1 or self.steps < 0 or self.max_minutes <= 0:
            raise ValueError("batch must be >= 1, steps >= 0 and max_minutes > 0")
        if (
            self.lr <= 0
            or min(self.warmup, self.z_warmup) < 1
            or self.clip <= 0
            or not 0 <= self.ema < 1
        ):
            raise ValueError(
                "lr and clip must be > 0, warmup and z_warmup >= 1 and ema from 0 to below 1"
            )
        for name in ("threads", "checkpoint_every", "workers", "bank_gb", "held_out", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be >= 0")
        if self.devices < 1 or self.nodes < 1:
            raise ValueError("devices and nodes must be >= 1")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is {self.decay}: it must be above 0 and at most 1")
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho is {self.rho}: it must be from 0 to 1")
        if self.sigma_blur_max < 0:
            raise ValueError(
                f"sigma_blur_max is {self.sigma_blur_max}: it must be 0 (isotropic diffusion) or "
                "more pixels, such as 20"
            )
        BlurSchedule(self.sigma_blur_max, logsnr_min=self.logsnr_min)  # refuses what cannot be
        if not 0 <= self.lpips_t_max <= 1:
            raise ValueError(f"lpips_t_max is {self.lpips_t_max}: it must be from 0 to 1")
        if self.prediction == "eps" and self.rho and self.stage != "codec":
            self._check_lpips()
        if self.stage in ("denoiser", "deterministic") and not self.codec:
            raise ValueError("codec is empty: name the codec that the denoiser belongs to")
        if self.stage == "deterministic" and self.prediction not in ("x", "residual"):
            raise ValueError(
                f"prediction is {self.prediction!r}: a deterministic decoder predicts 'x' or "
                "'residual'"
            )
        if self.stage == "deterministic" and self.loss_weight:
            raise ValueError(
                f"loss_weight is {self.loss_weight!r}: a deterministic decoder has no times to "
                "weigh, leave it ''"
            )
        if self.stage == "joint" and self.prediction == "residual":
            raise ValueError(
                "prediction is 'residual', which needs a finished codec: joint training predicts "
                "'x', 'eps' or 'v'"
            )

    def _check_lpips(self) -> None:
        """x̂ = (u_t − σ_t ε̂)/α_t magnifies errors by σ_t/α_t, most at the highest frequency."""
        schedule = BlurSchedule(self.sigma_blur_max, logsnr_min=self.logsnr_min)
        times = torch.linspace(0, 1, 101, dtype=torch.float64)
        lowest = schedule.alpha(times, self.crop, self.crop).amin((1, 2, 3))
        latest = times[schedule.sigma(times) / lowest <= MAGNIFIED].max().item()
        if self.lpips_t_max > latest:
            raise ValueError(
                f"lpips_t_max is {self.lpips_t_max:g}: with prediction 'eps' x̂ is too wrong there "
                f"for LPIPS; it must be at most {latest:.2f}, or prediction 'x' or 'v', or rho 0"
            )

    def _check_type(self, name: str, kind: type) -> None:
        value = getattr(self, name)
        allowed = (int, float) if kind is float else kind
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, allowed):
            raise ValueError(f"{name} is {value!r}: it must be of type {kind.__name__}")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name} is {value}: it must be finite")

    def _allow(self, name: str, values: tuple[str, ...]) -> None:
        if getattr(self, name) not in values:
            raise ValueError(f"{name} is {getattr(self, name)!r}: it must be one of {values}")

    @property
    def target(self) -> Objective:
        """What a codec is trained for."""
        distortion = "perceptual" if self.stage == "joint" else self.objective
        return Objective(distortion, self.lmbda_min, self.lmbda_max)

    def to_toml(self) -> str:
        return tomli_w.dumps(asdict(self))

    @classmethod
    def from_toml(cls, text: str, **overrides) -> TrainConfig:
        """Read a recipe; `overrides` win over it, None leaves the recipe's value.

        Raises:
            ValueError: not TOML, an unknown field, a value that cannot work, or the objective
                "mse" with the λ of MS-SSIM, which are the defaults.
        """
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"the recipe is not valid TOML: {error}") from error
        values |= {k: v for k, v in overrides.items() if v is not None}
        unknown = values.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)[0]!r} in the recipe")
        of_codec = values.get("stage", "codec") == "codec"
        mse = of_codec and values.get("objective") == "mse"
        if mse and not {"lmbda_min", "lmbda_max"} <= values.keys():
            raise ValueError(
                "objective is 'mse' without lmbda_min and lmbda_max, whose defaults are for "
                "'ms-ssim': 0.001 and 0.06 are usual for 'mse'"
            )
        return cls(**values)

    @classmethod
    def recipe(cls, name_or_path: str, **overrides) -> TrainConfig:
        """A shipped recipe by name, or a TOML file by path."""
        shipped = RECIPES / f"{name_or_path}.toml"
        path = shipped if shipped.is_file() else Path(name_or_path)
        if not path.is_file():
            names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
            raise ValueError(f"no recipe {name_or_path!r}: shipped recipes are {names}")
        return cls.from_toml(path.read_text(), **overrides)
