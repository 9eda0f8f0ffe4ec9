"""Weights: shipped by name or read from a file; safetensors only, nothing is unpickled."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib import checkpoints
from blurlib.codec.model import BlurCodec, CodecConfig
from blurlib.codec.objective import Objective
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.codec.transforms import Gain
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, DenoiserConfig, Sampling

CHECKPOINTS = Path(checkpoints.__file__).parent
SHA256 = CHECKPOINTS / "sha256.json"  # file name -> SHA-256 of every shipped file
ARCHITECTURE = 2  # grows when the same weights would compute something else
HALF_FROM = 1024  # tensors with at least this many values are stored in float16


class WeightsError(ValueError):
    """The weights are missing, damaged, or of another kind of model."""


def names() -> list[str]:
    """Names of the shipped models."""
    return sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))


def load(name: str | os.PathLike = checkpoints.CODEC) -> BlurCodec:
    """A codec ready for coding (eval mode), from a shipped name or a .safetensors file.

    Its `model_id`, the first 4 bytes of the file's SHA-256, is written into every `.blur` file.

    Raises:
        WeightsError: unknown name, changed or damaged file, or not a codec.
    """
    data, digest = _read(name)
    metadata, tensors = _parse(data, "codec", name)
    with _fitting(name):
        codec = BlurCodec(CodecConfig.from_dict(metadata["config"]))
        # Its shape is learned.
        codec.entropy.hyper_latent.table = tensors["entropy.hyper_latent.table"]
        codec.load_state_dict(tensors)
        codec.entropy.hyper_latent.check_tables()
        if objective := metadata.get("objective"):
            codec.objective = Objective(**objective)
    codec.model_id = digest[:4]
    for part in (codec.g_a, codec.main_decoder):  # float32 only; CPUs and GPUs are faster with it
        part.to(memory_format=torch.channels_last)
    return codec.eval().code_in()


def initialise(codec: BlurCodec, path: str | os.PathLike) -> None:
    """Start `codec` with the tensors of another codec's file: everything if both have the same
    configuration, else the transforms and gains. WeightsError: not a codec's file, or other sizes.
    """
    metadata, tensors = _parse(_read(path)[0], "codec", path)
    with _fitting(path):
        if CodecConfig.from_dict(metadata["config"]) != codec.config:
            transforms = ("g_a.", "main_decoder.", "gain.", "inverse_gain.")
            tensors = {k: v for k, v in tensors.items() if k.startswith(transforms)}
        if objective := metadata.get("objective"):
            tensors |= _gains_of_same_lmbda(codec, Objective(**objective), tensors)
        # Of the finished codec; frozen anew from the new one.
        tables = ("table", "offset", "length", "median")
        tensors = {k: v for k, v in tensors.items() if k.rpartition(".")[2] not in tables}
        codec.load_state_dict(tensors, strict=False)


def _gains_of_same_lmbda(
    codec: BlurCodec, trained_for: Objective, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A file's gains at the qualities that have the λ of the levels of `codec`, where both weigh
    the squared error."""
    wanted, levels = codec.objective, codec.config.levels
    if not wanted or not all(o.distortion.startswith("mse") for o in (wanted, trained_for)):
        return {}
    lmbda = wanted.lmbda(torch.arange(1, levels + 1, dtype=torch.float64), levels)
    found = {}
    for name in ("gain.log_gain", "inverse_gain.log_gain"):
        trained = tensors[name]
        gain = Gain(len(trained), trained.shape[1], (0.0, 0.0))
        gain.log_gain.data = trained
        quality = trained_for.quality(lmbda, len(trained))
        found[name] = gain(quality)[..., 0, 0].log().float()
    return found


def initialise_denoiser(denoiser: Denoiser, path: str | os.PathLike) -> None:
    """Start `denoiser` with the tensors of another's file. WeightsError: not a denoiser's file, or
    of another size."""
    _, tensors = _parse(_read(path)[0], "denoiser", path)
    with _fitting(path):
        denoiser.load_state_dict(tensors)


def sha256(name: str | os.PathLike) -> str:
    """SHA-256 of a model file, shipped or not, in hexadecimal."""
    return _read(name)[1].hex()


def name_of(model_id: bytes) -> str | None:
    """Name of the shipped model whose SHA-256 starts with `model_id`."""
    for file, digest in json.loads(SHA256.read_text()).items():
        if bytes.fromhex(digest)[:4] == model_id:
            return Path(file).stem
    return None


def load_by_id(model_id: bytes) -> BlurCodec:
    """The shipped codec that made a file; WeightsError where no shipped model has this id."""
    name = name_of(model_id)
    if name is None:
        raise WeightsError(
            f"the file was made by model {model_id.hex()}, which is not shipped: name its weights"
        )
    return load(name)


def load_denoiser(name: str | os.PathLike = checkpoints.DENOISER) -> DiffusionDecoder:
    """A diffusion decoder, from a shipped name or a .safetensors file. Its `codec_id` names the
    only codec it can decode for.

    Raises:
        WeightsError: unknown name, changed or damaged file, or not a denoiser.
    """
    metadata, tensors = _parse(_read(name)[0], "denoiser", name)
    with _fitting(name):
        sizes: dict[str, Any] = metadata["config"]
        sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
        denoiser = Denoiser(DenoiserConfig(**sizes)).to(memory_format=torch.channels_last)
        denoiser.load_state_dict(tensors)
        process = BlurDiffusion(BlurSchedule(**metadata["schedule"]), metadata["prediction"])
        codec_id, sampling = bytes.fromhex(metadata["codec_id"]), metadata.get("sampling", {})
        return DiffusionDecoder(denoiser, process, codec_id, Sampling(**sampling)).eval()


def codec_bytes(codec: BlurCodec) -> bytes:
    """The file that `load` reads.

    `codec` itself is changed to what the file holds: its weights are rounded for storage, and its
    hyper-latent tables frozen from them.
    """
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.copy_(_storage(parameter))
    codec.entropy.hyper_latent.freeze()
    config = asdict(codec.config)
    objective = codec.objective and asdict(codec.objective)
    return _serialise(codec, {"kind": "codec", "config": config, "objective": objective})


def decoder_bytes(decoder: DiffusionDecoder) -> bytes:
    """The file that `load_denoiser` reads."""
    config, codec_id = asdict(decoder.denoiser.config), decoder.codec_id.hex()
    schedule, sampling = asdict(decoder.process.schedule), asdict(decoder.sampling)
    own = {"config": config, "codec_id": codec_id, "schedule": schedule, "sampling": sampling}
    how = {"kind": "denoiser", "prediction": decoder.process.prediction}
    return _serialise(decoder.denoiser, how | own)


def _storage(tensor: Tensor) -> Tensor:
    """Large float tensors in float16, the rest in float32: half the size, same quality."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float16 if tensor.numel() >= HALF_FROM else torch.float32)


def _serialise(module: nn.Module, metadata: dict) -> bytes:
    tensors = {k: _storage(v).contiguous() for k, v in module.state_dict().items()}
    metadata = {"architecture": ARCHITECTURE, **metadata}
    return safetensors.torch.save(tensors, {"blurlib": json.dumps(metadata, sort_keys=True)})


def _read(name: str | os.PathLike) -> tuple[bytes, bytes]:
    """Bytes of a model file and their SHA-256; a shipped file must have its recorded sum."""
    shipped = str(name) in names()
    path = CHECKPOINTS / f"{name}.safetensors" if shipped else Path(name)
    if not path.is_file():
        raise WeightsError(f"no model or file {str(name)!r}: shipped are {', '.join(names())}")
    data = path.read_bytes()
    digest = hashlib.sha256(data)
    if shipped and json.loads(SHA256.read_text()).get(path.name) != digest.hexdigest():
        raise WeightsError(f"{path.name} differs from its recorded SHA-256: install blurlib again")
    return data, digest.digest()


def _parse(data: bytes, kind: str, name: str | os.PathLike) -> tuple[dict, dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file of the given kind."""
    try:
        tensors = safetensors.torch.load(data)
        header_size = int.from_bytes(data[:8], "little")  # checked by the load above
        header = json.loads(data[8 : 8 + header_size])
        metadata = json.loads(header["__metadata__"]["blurlib"])
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{name} is not a blurlib model file") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise WeightsError(f"{name}: some of its weights are not finite: train it again")
    # Before anything is made: a layer has about the square of its channels in weights.
    most = max(256, math.isqrt(sum(tensor.numel() for tensor in tensors.values())))
    if isinstance(metadata, dict) and max(_numbers(metadata.get("config")), default=0) > most:
        raise WeightsError(f"{name}: its configuration is larger than its tensors")
    found = metadata.get("kind") if isinstance(metadata, dict) else None
    if found != kind:
        raise WeightsError(f"{name} is a {found}, and a {kind} is needed here")
    if metadata.get("architecture") == 1:
        with _fitting(name):
            metadata, tensors = _of_architecture_1(metadata, tensors)
    elif metadata.get("architecture") != ARCHITECTURE:
        raise WeightsError(
            f"{name} is of architecture {metadata.get('architecture')}, this blurlib runs "
            f"{ARCHITECTURE}: train it again, or use the blurlib that wrote it"
        )
    return metadata, tensors


# λ of the weights of architecture 1, whose files do not say.
_LMBDA_1 = {"ms-ssim": (1.5, 300.0), "mse": (0.001, 0.06)}


def _of_architecture_1(
    metadata: dict, tensors: dict[str, Tensor]
) -> tuple[dict, dict[str, Tensor]]:
    """What computes the same today: kernels of 2×2 and 1×1 in the middle of 4×4 and 3×3, blocks
    without a norm, h_a deaf to magnitudes, and CompressAI's bottleneck as ours."""
    if metadata.get("kind") != "codec":
        return metadata, tensors
    config = {**metadata["config"], "transform": {**metadata["config"]["transform"], "norm": False}}
    config.pop("knows_gain", None)
    objective = metadata.get("objective")
    if objective in _LMBDA_1:
        objective = asdict(Objective(objective, *_LMBDA_1[objective]))
    new, bottleneck = {}, "entropy.hyper_latent.bottleneck."
    for name, value in tensors.items():
        if name == f"{bottleneck}quantiles":
            new["entropy.hyper_latent.median"] = value[:, 0, 1]
        elif name.startswith(tuple(bottleneck + k for k in ("matrices", "biases", "factors"))):
            new[name.replace("bottleneck", "density")] = value
        elif not name.startswith((bottleneck, "entropy.scale_floor", "entropy.gaussian_bits")):
            new[name] = value
    new["h_a.layers.0.weight"] = F.pad(
        tensors["h_a.layers.0.weight"], (0, 0, 0, 0, 0, config["entropy"]["M"])
    )
    for name, value in new.items():
        between = name.startswith("g_a.layers.") and value.dim() == 4 and value.shape[-1] == 2
        if between or re.fullmatch(r"main_decoder\.up\.\d+\.0\.weight", name):
            new[name] = F.pad(value, (1, 1, 1, 1))
    return {**metadata, "config": config, "objective": objective}, new


def _numbers(value: Any) -> Iterator[int]:
    """All whole numbers in a nested configuration."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    elif isinstance(value, int):
        yield value


@contextmanager
def _fitting(name: str | os.PathLike) -> Iterator[None]:
    """WeightsError for whatever a file with our metadata but other contents raises on the way."""
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{name}: its tensors do not fit their network") from error
