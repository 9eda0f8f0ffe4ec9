"""Every number in README, book and model cards is what results/ says."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from blurlib.evaluation import results
from blurlib.evaluation.bd_rate import bd_rate

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_number_is_stale(tables):
    assert tables.stale(ROOT, write=False) == []


def test_every_file_decodes_elsewhere_and_is_as_long_as_estimated(tables):
    rows = json.loads((ROOT / "results/checks/roundtrip-msssim-small.json").read_text())["rows"]
    assert len({(row["image"], row["quality"]) for row in rows}) == 24 * 6
    for row in rows:
        assert row["equal"]
        assert abs(row["bytes"] - row["estimated_bytes"]) <= 0.01 * row["estimated_bytes"] + 64


def test_the_direct_decoder_beats_webp_in_ms_ssim(tables):
    webp, ours = (
        results.averages(results.read(ROOT / tables.KODAK / f"{name}.json"))
        for name in ("webp", "msssim-small-direct")
    )
    assert (webp["images"] == 24).all()
    assert (ours["images"] == 24).all()
    curves = [curve[["bpp", "ms_ssim_db"]].to_numpy() for curve in (webp, ours)]
    for method in ("akima", "pchip"):
        assert bd_rate(*curves, method=method, rates=(0.1, 0.8)).value < 0
    needed = np.interp(ours["ms_ssim_db"], webp["ms_ssim_db"], webp["bpp"])
    cheaper = (ours["bpp"] < needed).tolist()
    assert cheaper == [True] * 5 + [False]  # as the model card says


def test_a_changed_number_is_found_and_restored(tables, tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    card = tmp_path / "README.md"
    text = tables.fill("<!-- table: kodak-direct -->\n<!-- /table -->\n", ROOT)
    assert "| quality |" in text
    card.write_text(text.replace("| 1 |", "| 9 |"), encoding="utf-8")
    assert tables.stale(tmp_path, write=True) == [card]
    assert card.read_text(encoding="utf-8") == text


def test_an_unknown_table_is_an_error(tables):
    with pytest.raises(KeyError, match="no-such"):
        tables.fill("<!-- table: no-such -->\n<!-- /table -->\n", ROOT)
