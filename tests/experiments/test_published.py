"""The published points and their reader, against values typed in from the literature."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from blurlib.evaluation.bd_rate import bd_rate
from experiments import published

POINTS = published.read()

# BD-rate in per cent against the eight points of VTM-9.1 on Kodak. Computed once from the authors'
# files, apart from this library: bjontegaard 1.3.0, method="pchip",
# require_matching_points=False, min_overlap=0; non-increasing points dropped; linear MS-SSIM turned
# into dB after averaging. (codec, variant, PSNR, MS-SSIM in dB) What results/tables/against-vtm.md
# has is checked there.
LITERATURE = [
    ("VTM-9.1", "none", 0.0, 0.0),
    ("VTM-9.1@LALIC", "none", -1.5, None),
    ("JPEG", "none", 208.5, 139.8),
    ("JPEG2000", "none", 98.0, 113.4),
    ("bmshj2018-factorized", "mse", 68.1, 17.4),
    ("bmshj2018-factorized", "ms-ssim", 247.5, -24.3),
    ("mbt2018", "mse", 11.0, -2.1),
    ("mbt2018", "ms-ssim", 173.0, -41.4),
    ("cheng2020-attn", "mse", 5.5, -8.2),
    ("cheng2020-attn", "ms-ssim", 142.2, -45.1),
    ("cheng2020-checkerboard-6M", "mse", 3.9, -7.0),
    ("cheng2020-checkerboard-6M", "ms-ssim", None, -41.8),
    ("minnen2018-checkerboard", "mse", 19.0, 4.0),
    ("minnen2018-checkerboard", "ms-ssim", None, -34.3),
    ("ChARM", "mse", 1.1, None),
    ("ELIC", "mse", -7.0, -12.8),
    ("TCM-L", "mse", -11.7, None),
    ("STF", "mse", -4.1, None),
    ("STF", "ms-ssim", None, -51.0),
    ("FTIC", "mse", -14.6, None),
    ("FTIC", "ms-ssim", None, -54.3),
    ("DCAE", "ms-ssim", None, -55.7),
    ("LALIC", "mse", -15.3, None),
    ("LALIC", "ms-ssim", 135.3, -54.0),
    ("C3", "mse", 5.2, None),
    ("ILLM-noGAN", "perceptual", 35.2, -11.6),
]
EXPECTED = [
    (codec, variant, metric, value)
    for codec, variant, *values in LITERATURE
    for metric, value in zip(("psnr", "ms_ssim_db"), values, strict=True)
    if value is not None
]


@pytest.mark.parametrize(("codec", "variant", "metric", "expected"), EXPECTED)
def test_bd_rates_are_those_of_the_literature(codec, variant, metric, expected):
    test = POINTS.curve(codec, metric, variant=variant, accept=("relabelled", "mean-of-db"))
    anchor = POINTS.curve("VTM-9.1", metric)
    assert len(anchor) == 8
    for method in ("pchip", "akima"):
        assert bd_rate(anchor, test, method).value == pytest.approx(expected, abs=0.5)


def test_means_of_db_against_an_anchor_averaged_alike():
    vtm = POINTS.curve("VTM-9.1@LALIC", "ms_ssim_db", accept=["mean-of-db"])
    for codec, expected in (("FTIC", -51.6), ("LALIC", -51.3), ("DCAE", -53.1)):
        test = POINTS.curve(codec, "ms_ssim_db", variant="ms-ssim", accept=["mean-of-db"])
        assert bd_rate(vtm, test, "pchip").value == pytest.approx(expected, abs=0.5)


def test_every_row_says_where_it_is_from():
    table = pd.read_csv(published.FOLDER / "points.csv", dtype=str, keep_default_na=False)
    assert len(table) == 1027
    assert table["source"].str.fullmatch(r"[\w.-]+/[\w.-]+:.+").all()
    assert table["source_commit"].str.fullmatch(r"[0-9a-f]{12}").all()
    assert set(table["kind"]) == {"authors-points", "measured-by-source"}
    assert (table["note"].str.contains("CAUTION") == (table["caution"] != "")).all()
    rd = table[~table["metric"].isin(["encode_s", "decode_s"])]
    curves = rd.groupby(["codec", "variant", "dataset", "metric"])
    assert (curves["source"].nunique() == 1).all()
    assert not rd.duplicated(["codec", "variant", "dataset", "metric", "bpp", "value"]).any()
    readme = (published.FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(repository in readme for repository in set(table["source"].str.split(":").str[0]))
    assert all(f"`{caution}`" in readme for caution in set(table["caution"]) - {""})


def test_a_curve_is_what_the_source_says():
    curve = POINTS.curve("VTM-9.1", "psnr")
    # QP 47 and QP 12 in CompressAI's own file
    assert curve[0] == pytest.approx([0.04824490017361111, 26.14484539430146])
    assert curve[-1] == pytest.approx([3.6326090494791665, 46.59176008512777])
    assert (np.diff(curve, axis=0) > 0).all()


def test_ms_ssim_becomes_db_after_averaging():
    linear = POINTS.curve("JPEG", "ms_ssim")
    assert linear[0] == pytest.approx([0.221153, 0.803071], abs=1e-6)
    in_db = POINTS.curve("JPEG", "ms_ssim_db")
    np.testing.assert_allclose(in_db[:, 1], -10 * np.log10(1 - linear[:, 1]))
    content = json.loads((published.FOLDER / "vvenc_kodak.json").read_text())
    rows = [row for row in content["rows"] if row["qp"] == 27]
    bpp, ms_ssim = (sum(row[name] for row in rows) / 24 for name in ("bpp", "ms_ssim"))
    curve = POINTS.curve("VVenC", "ms_ssim_db")
    assert (len(rows), len(curve), len(POINTS.curve("VVenC", "lpips"))) == (24, 8, 8)
    assert curve[-1] == pytest.approx([bpp, -10 * math.log10(1 - ms_ssim)])


def test_a_caution_must_be_accepted_by_name():
    with pytest.raises(ValueError, match=r"carries a caution \(relabelled\)"):
        POINTS.curve("ELIC", "ms_ssim_db")
    assert len(POINTS.curve("ELIC", "ms_ssim_db", accept=("relabelled",))) == 6
    with pytest.raises(ValueError, match=r"caution \(inconsistent, mean-of-db\)"):
        POINTS.curve("LALIC", "ms_ssim_db", variant="ms-ssim")
    with pytest.raises(ValueError, match="accept takes cautions of relabelled"):
        POINTS.curve("ELIC", "ms_ssim_db", accept="relabelled")


def table_of(tmp_path, rows):
    """A folder whose points.csv has one codec "c" with these (metric, bpp, value)."""
    shutil.copy(published.FOLDER / "vvenc_kodak.json", tmp_path)
    names = "codec variant dataset metric bpp value source source_commit kind caution note"
    lines = [f"c,mse,d,{metric},{bpp},{value},s,0,k,,n" for metric, bpp, value in rows]
    (tmp_path / "points.csv").write_text("\n".join([names.replace(" ", ","), *lines]) + "\n")
    return tmp_path


def test_points_that_a_cheaper_one_beats_are_dropped(tmp_path):
    psnr = [(0.4, 33), (0.1, 30), (0.2, 32), (0.3, 31.5), (0.3, 31.9), (0.4, 34), (0.5, 34)]
    lpips = [(0.2, 0.3), (0.1, 0.2)]
    rows = [("psnr_rgb", *p) for p in psnr] + [("lpips", *p) for p in lpips]
    points = published.read(table_of(tmp_path, rows))
    assert points.curve("c", "psnr", "d").tolist() == [[0.1, 30], [0.2, 32], [0.4, 34]]
    assert points.curve("c", "lpips", "d").tolist() == [[0.1, 0.2], [0.2, 0.3]]
