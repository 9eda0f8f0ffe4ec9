import math
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as torchmetrics_lpips
import torchvision
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from blurlib import datasets, images, metrics
from stand_ins import Distance


def noisy(image, sigma, seed=0):
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return images.to_uint8(images.to_float(image) + sigma * drawn)


def reference_ms_ssim(x, y, peak):
    """Wang, Simoncelli and Bovik (2003) in NumPy, x, y: (3, H, W) with sides divisible by 16."""

    def blur(z):  # valid part only
        return gaussian_filter(z, 1.5, radius=5, axes=(1, 2))[:, 5:-5, 5:-5]

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    result = np.ones(3)
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            x, y = (z.reshape(3, z.shape[1] // 2, 2, -1, 2).mean((2, 4)) for z in (x, y))
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        term = (2 * cov + c2) / (vx + vy + c2)
        if scale == 4:
            term = term * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        result *= np.maximum(term.mean(axis=(1, 2)), 0) ** weight
    return result.mean()


@pytest.mark.parametrize("sigma", [0.001, 0.02, 0.5])
def test_psnr_is_scikit_images(astronaut, sigma):
    other = noisy(astronaut, sigma)
    expected = peak_signal_noise_ratio(astronaut.numpy(), other.numpy())
    assert metrics.psnr(astronaut, other) == pytest.approx(expected, abs=1e-9)
    x, y = images.to_float(astronaut), images.to_float(other)
    assert metrics.psnr(x, y) == pytest.approx(expected, abs=1e-5)


def test_mse_of_a_constant_difference():
    assert metrics.bpp(4915, 512, 768) == pytest.approx(0.1, abs=1e-4)
    x = torch.full((3, 5, 7), 10, dtype=torch.uint8)
    assert metrics.mse(x, x + 3) == 9
    assert metrics.mse(x + 3, x) == 9  # no wrap-around in uint8
    assert metrics.psnr(x, x) == math.inf


@pytest.mark.parametrize(
    ("size", "sigma"), [((176, 192), 0.3), ((176, 192), 0.005), ((512, 512), 0.05)]
)
def test_ms_ssim_is_the_numpy_reference(astronaut, size, sigma):
    x = astronaut[:, : size[0], : size[1]]
    y = noisy(x, sigma)
    expected = reference_ms_ssim(x.numpy().astype(float), y.numpy().astype(float), 255)
    assert metrics.ms_ssim(x, y) == pytest.approx(expected, abs=1e-6)
    x, y = images.to_float(x), images.to_float(y)
    assert metrics.ms_ssim(x, y) == pytest.approx(expected, abs=1e-6)


def test_ms_ssim_below_161_pixels_is_not_applicable(astronaut):
    for size in ((160, 400), (400, 160), (1, 1)):
        x = astronaut[:, : size[0], : size[1]]
        assert math.isnan(metrics.ms_ssim(x, x))
    x = astronaut[:, :161, :163]
    assert metrics.ms_ssim(x, x) == pytest.approx(1, abs=1e-12)
    assert metrics.ms_ssim_db(0.99) == pytest.approx(20)
    assert metrics.ms_ssim_db(1.0) == math.inf
    assert math.isnan(metrics.ms_ssim_db(math.nan))


@pytest.mark.parametrize("measure", [metrics.mse, metrics.psnr, metrics.ms_ssim])
def test_different_images_cannot_be_compared(astronaut, measure):
    with pytest.raises(ValueError, match="cannot compare"):
        measure(astronaut, astronaut[:, 1:])
    with pytest.raises(ValueError, match="cannot compare"):
        measure(astronaut, images.to_float(astronaut))
    with pytest.raises(ValueError, match="uint8 or floats"):
        measure(astronaut.int(), astronaut.int())


def test_ms_ssim_loss_agrees_with_the_measure_per_image(astronaut):
    x = torch.stack([astronaut[:, :192, :176], astronaut[:, 200:392, 200:376]])
    y = noisy(x, 0.1)
    loss = metrics.ms_ssim_loss(images.to_float(y), images.to_float(x))
    expected = [1 - metrics.ms_ssim(a, b) for a, b in zip(x, y, strict=True)]
    assert loss.tolist() == pytest.approx(expected, abs=1e-5)


def test_ms_ssim_loss_has_finite_gradients_even_for_a_negative():
    x = torch.rand(1, 3, 176, 176, generator=torch.Generator().manual_seed(0))
    x_hat = (1 - x).requires_grad_()  # every covariance is negative, every scale is clipped to 0
    loss = metrics.ms_ssim_loss(x_hat, x).sum()
    loss.backward()
    assert loss == 1
    assert x_hat.grad.isfinite().all()
    with pytest.raises(ValueError, match="161"):
        metrics.ms_ssim_loss(x[..., :160], x[..., :160])


class Dropping(Distance):
    """One that would drop values if it were trained."""

    def forward(self, x, y, normalize=False):
        assert normalize  # inputs are in [0, 1]
        return F.dropout(super().forward(x, y), training=self.training)


def test_lpips_wraps_any_network():
    distance = metrics.Lpips(Dropping()).train()  # stays in eval mode: no dropout
    x = torch.zeros(2, 3, 40, 40, requires_grad=True)
    y = torch.stack([torch.full((3, 40, 40), 0.25), torch.zeros(3, 40, 40)])
    values = distance(x, y)
    assert values.tolist() == [0.25, 0]
    values.sum().backward()
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in distance.parameters())
    with pytest.raises(ValueError, match="32"):
        distance(x[..., :31], y[..., :31])
    dark, bright = (torch.full((3, 32, 40), level, dtype=torch.uint8) for level in (51, 102))
    assert metrics.lpips_distance(distance, dark, bright) == pytest.approx(0.4 - 0.2)
    assert math.isnan(metrics.lpips_distance(distance, dark[:, 1:], bright[:, 1:]))


TORCHVISION = {
    "alex": torchvision.models.alexnet,
    "squeeze": torchvision.models.squeezenet1_1,
}


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")  # its old arguments, in lpips
@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_lpips_is_torchmetrics(astronaut, tmp_path, monkeypatch, net):
    """On one backbone: the trained one where the cache has it, else a random one.

    The trained linear layers come with both packages.
    """
    import lpips

    path = datasets.cached_weights(metrics.lpips_file(net))
    if path is None:
        torch.manual_seed(0)
        path = tmp_path / metrics.lpips_file(net)
        torch.save(lpips.LPIPS(net=net, pnet_rand=True, verbose=False).state_dict(), path)
    weights = torch.load(path)

    def backbone(*_):  # in place of torchvision's download
        layers = TORCHVISION[net](weights=None).features
        own = {key.split(".", 2)[2]: w for key, w in weights.items() if key.startswith("net.")}
        layers.load_state_dict(own)
        return layers

    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", backbone)
    x = images.to_float(torch.stack([astronaut[:, :96, :80], astronaut[:, 200:296, 300:380]]))
    y = images.to_float(noisy(images.to_uint8(x), 0.1))
    expected = torchmetrics_lpips.learned_perceptual_image_patch_similarity(
        x, y, net, reduction="none", normalize=True
    )
    distance = metrics.Lpips.load(net, path)
    assert expected.min() > 1e-3
    torch.testing.assert_close(distance(x, y), expected, rtol=1e-4, atol=0)
    assert distance(x, x).tolist() == [0, 0]
    assert distance(x[..., :32, :32], y[..., :32, :32]).isfinite().all()  # the smallest


def test_lpips_load_refuses(tmp_path):
    with pytest.raises(ValueError, match="alex, squeeze, vgg"):
        metrics.Lpips.load("resnet")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth"):
        metrics.Lpips.load("alex", tmp_path / "text.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        metrics.Lpips.load("alex", tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError):
        metrics.Lpips.load("alex", tmp_path / "absent.pth")


@pytest.mark.parametrize("error", [URLError("offline"), RuntimeError("invalid hash value")])
def test_lpips_that_cannot_be_fetched(monkeypatch, error):
    def download(**_):
        raise error

    monkeypatch.setattr("lpips.LPIPS", download)
    file = metrics.lpips_file("vgg")
    with pytest.raises(OSError, match=rf"vgg weights of LPIPS.*{file} into BLURLIB_HOME/weights"):
        metrics.Lpips.load("vgg")


def test_block_steps_are_those_of_known_blocks():
    """A slope of 0.001 a pixel, with steps of 0.003 more at each line of 16 and 0.001 at those of
    8 between them, in both directions."""
    at = torch.arange(64, dtype=torch.float64)
    line = 0.001 * at + 0.003 * (at // 16) + 0.001 * ((at + 8) // 16)
    blocks = (line + line[:, None]).expand(1, 3, 64, 64)
    torch.testing.assert_close(metrics.block_steps(blocks), torch.tensor([[4.0, 2.0]]).double())
    flat = torch.full((2, 3, 48, 32), 0.5)
    assert metrics.block_steps(flat).eq(0).all()  # no step at all is no division by zero
