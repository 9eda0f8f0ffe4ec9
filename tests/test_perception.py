"""Patches and distances of sets of images; networks are random or injected, nothing is fetched."""

import hashlib
import math
import pickle

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from blurlib import metrics
from blurlib.evaluation import perception
from experiments.perception import by_count
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
    found = perception.patches(image, size)
    assert torch.equal(found, torch.stack(expected))
    assert perception.patch_count(height, width, size) == len(expected)


def test_patches_refuse_what_has_none():
    for shape in ((255, 4000), (4000, 255)):
        with pytest.raises(ValueError, match=f"{shape[0]} × {shape[1]} .* no patch of 256"):
            perception.patches(torch.zeros(3, *shape, dtype=torch.uint8))
    for wrong in (torch.zeros(3, 300, 300), torch.zeros(1, 300, 300).byte()):
        with pytest.raises(ValueError, match=r"uint8 \(3, H, W\)"):
            perception.patches(wrong)


def test_a_network_sees_so_many_patches_at_once():
    x = random_patches(2 * perception._BATCH + 3, 4)
    seen = []
    network = Colours()
    network.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    found = perception.Features("Colours", "", network)(x)
    assert max(seen) == perception._BATCH
    torch.testing.assert_close(found, x.float().mean((2, 3)))


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory):
    import lpips

    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    path = tmp_path_factory.mktemp("weights") / metrics.lpips_file("alex")
    torch.save(network.state_dict(), path)
    return path


@lpips_package
def test_alexnet_is_torchvisions_up_to_its_last_convolution(alexnet_file):
    network = perception.alexnet(alexnet_file)
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
    assert perception.names("AlexNet") == ("FD-AlexNet", "KD-AlexNet")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), found)  # as it travels to a worker


@pytest.mark.slow
@lpips_package
def test_the_hash_of_alexnet_is_of_its_weights(alexnet_file, tmp_path):
    weights = torch.load(alexnet_file)
    shuffled = dict(reversed(weights.items()))
    torch.save(shuffled, tmp_path / "same.pth")
    network = perception.alexnet(alexnet_file)
    assert perception.alexnet(tmp_path / "same.pth").sha256 == network.sha256
    weights["net.slice1.0.bias"][0] += 1e-6
    torch.save(weights, tmp_path / "other.pth")
    assert perception.alexnet(tmp_path / "other.pth").sha256 != network.sha256


def test_inception_refuses_other_weights(tmp_path, empty_home):
    assert perception.INCEPTION_FILE.endswith(f"{perception.INCEPTION_SHA256[:8]}.pth")
    (tmp_path / "other.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"other\.pth: is not weights-inception.*SHA-256"):
        perception.inception(tmp_path / "other.pth")
    (empty_home / "weights").mkdir()
    (empty_home / "weights" / perception.INCEPTION_FILE).write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"weights-inception.*SHA-256"):
        perception.inception()
    with pytest.raises(FileNotFoundError):
        perception.inception(tmp_path / "absent.pth")


@pytest.mark.parametrize("error", [ConnectionError("offline"), ValueError("another hash")])
def test_inception_that_cannot_be_fetched(empty_home, monkeypatch, error):
    def retrieve(url, known_hash, **_):
        assert perception.INCEPTION_FILE in url
        assert known_hash == perception.INCEPTION_SHA256
        raise error

    monkeypatch.setattr(perception.pooch, "retrieve", retrieve)
    with pytest.raises(OSError, match=r"home/weights/weights-inception.*put the file there") as e:
        perception.inception()
    assert "\n" not in str(e.value)


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
    monkeypatch.setattr(perception, "INCEPTION_SHA256", digest)
    network = perception.inception(path)
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
    found = perception.distances(FirstPixels()(x), FirstPixels()(y))
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
    found = perception.distances(torch.from_numpy(x), torch.from_numpy(y)).frechet
    assert found == pytest.approx(expected, rel=1e-6)


def test_many_patches_are_compared_by_subsets_drawn_alike_at_every_call(monkeypatch):
    x, y = gaussian(60), gaussian(60, seed=1) + 1
    one_subset = perception.distances(x, y)
    monkeypatch.setattr(perception, "_SUBSET", 40)
    found = perception.distances(x, y)
    assert found == perception.distances(x, y)
    assert found.kernel != one_subset.kernel
    assert found.kernel == pytest.approx(one_subset.kernel, rel=0.1)
    assert found.frechet == one_subset.frechet


def test_distances_refuse():
    x = gaussian(10)
    with pytest.raises(ValueError, match=r"as many in both.*\(10, 8\) and \(9, 8\)"):
        perception.distances(x, x[1:])
    with pytest.raises(ValueError, match=r"\(N, dim\)"):
        perception.distances(x[0], x[0])
    with pytest.raises(ValueError, match="two patches or more, got 1"):
        perception.distances(x[:1], x[:1])
    with pytest.raises(ValueError, match="NaN"):
        perception.distances(x, x * math.nan)


def test_few_samples_make_the_frechet_distance_too_large():
    torch.manual_seed(0)
    x, y = torch.randn(400, 8, dtype=torch.float64), torch.randn(400, 8, dtype=torch.float64)
    table = by_count(x, y, [10, 40, 160, 400])
    assert table["patches"].tolist() == [10, 40, 160, 400]
    assert table["frechet"].is_monotonic_decreasing
    assert table["frechet"][0] > 10 * table["frechet"][3]
    assert table["kernel"].abs().max() < table["kernel_std"].max()
    whole = perception.distances(x, y)
    assert table["frechet"][3] == pytest.approx(whole.frechet, rel=1e-9)
    assert table["kernel"][3] == pytest.approx(whole.kernel, rel=1e-9)
