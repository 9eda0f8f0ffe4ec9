"""What the results say: read from folders whose answer is known beforehand."""

import numpy as np
import pytest

from blurlib.evaluation import results
from blurlib.evaluation.results import Results, Row
from experiments import published, report
from experiments.record import write_json


@pytest.fixture(scope="module")
def vtm():
    points = published.read()
    return {column: points.curve(report.ANCHOR, column) for column in ("psnr", "ms_ssim_db")}


def write_codec(folder, name, curve, checkpoint=None, settings=None, distances=(), of=None):
    """A results file of one image whose averages are the curve's: (bpp, psnr, ms_ssim, lpips)."""
    rows = tuple(
        Row("a.png", quality, 1, bpp, psnr, ms_ssim, lpips, 0.1, 0.1)
        for quality, (bpp, psnr, ms_ssim, lpips) in enumerate(curve, 1)
    )
    content = Results(
        dataset="kodak", codec=name, settings=settings or {}, checkpoint=checkpoint, lpips="alex",
        commit=None, device="cpu", versions={}, seed=None, rows=rows,
    )  # fmt: skip
    file = folder / "measured" / "kodak" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    results.write(file, content)
    run = {"checkpoint": of or checkpoint, "settings": settings or {}, "rows": distances}
    file = folder / "distances" / "kodak" / file.name
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"runs": [run]})


def distance(quality, network="AlexNet", frechet=12.5):
    return {
        "quality": quality, "network": network, "sha256": "ab", "frechet": frechet,
        "kernel": frechet / 100, "patches": 192,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path, vtm):
    """WebP is VTM with a tenth more bits; ours is VTM with half of them."""
    (tmp_path / "published").symlink_to(report.FOLDER / "published")
    for name, factor in (("webp", 1.1), ("msssim-small-direct", 0.5)):
        bpp = vtm["psnr"][:, 0] * factor
        similarity = 1 - 10 ** (-vtm["ms_ssim_db"][:, 1] / 10)
        lpips = np.linspace(0.5, 0.1, len(bpp))
        curve = list(zip(bpp, vtm["psnr"][:, 1], similarity, lpips, strict=True))
        ours = name != "webp"
        write_codec(
            tmp_path, name, curve, checkpoint="c0ffee" if ours else None,
            settings={"decoder": "direct", "objective": "ms-ssim"} if ours else None,
            distances=() if ours else [distance(1)],
        )  # fmt: skip
    return tmp_path


def test_bd_rate_against_vtm_is_the_factor_that_was_put_in(folder):
    table = report.against_vtm(folder).set_index("codec")
    for codec, expected in (("WebP", 10), ("msssim-small, direct", -50)):
        rows = table[table["origin"] == "measured"]
        for column in ("ms_ssim", "psnr"):
            span = rows.loc[codec, column]
            assert span.akima == pytest.approx(expected, abs=1e-6)
            assert span.pchip == pytest.approx(expected, abs=1e-6)


def test_fid_is_beside_the_other_distances_where_inception_measured_it(folder, vtm):
    """And nan for the codecs that no network has seen, or only with other weights."""
    rates = vtm["psnr"][:, 0] * 0.5
    curve = [(bpp, 30.0, 0.9, 0.2) for bpp in rates]
    distances = [
        distance(quality, network, frechet)
        for quality in range(1, len(curve) + 1)
        for network, frechet in (("AlexNet", 10.0), ("Inception", 40.0))
    ]
    write_codec(folder, "avif", curve, distances=distances)
    write_codec(folder, "heic", curve, distances=distances, of="0ther")
    middle = float(np.sqrt(rates.min() * rates.max()))
    found = report.at_rates(["FID", "KID", "FD-AlexNet", "KD-AlexNet"], [middle], folder)
    assert found.loc["AVIF"].tolist() == pytest.approx([40, 0.4, 10, 0.1])
    assert found.loc[["msssim-small, direct", "HEIC"]].isna().all(axis=None)
