"""Every number in README, book and model cards is what results/ says."""

import json
import shutil
from pathlib import Path

import pytest

from experiments import report

ROOT = Path(__file__).parents[1]
KODAK = Path("results/measured/kodak")


@pytest.fixture(scope="module")
def tables(tool):
    return tool("tables")


@pytest.mark.slow
def test_no_number_is_stale(tables):
    assert tables.stale(ROOT, write=False) == []


def test_every_file_decodes_elsewhere_and_is_as_long_as_estimated():
    rows = json.loads((ROOT / "results/checks/roundtrip-msssim-small.json").read_text())["rows"]
    assert len({(row["image"], row["quality"]) for row in rows}) == 24 * 6
    for row in rows:
        assert row["equal"]
        assert abs(row["bytes"] - row["estimated_bytes"]) <= 0.01 * row["estimated_bytes"] + 64


def test_what_training_on_a_cpu_aimed_at_is_reached():
    """Over VTM, whole curves: −8 % in MS-SSIM, +40 % in PSNR."""
    over_vtm = report.against_vtm().set_index("codec")
    assert over_vtm.loc["msssim-small, direct", "ms_ssim"].akima <= -8
    assert over_vtm.loc["mse-small, direct", "psnr"].akima <= 40


@pytest.mark.slow
def test_what_was_changed_is_found_and_written_again(tables, tmp_path, monkeypatch):
    """In a copy, with some of the tables and figures."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(ROOT / "training", tmp_path / "training", ignore=weights)
    names = ("kodak-direct", "kodak-direct-bd", "laplacian")
    monkeypatch.setattr(tables, "TABLES", {name: tables.TABLES[name] for name in names})
    monkeypatch.setattr(tables, "FIGURES", {"rd-psnr": tables.FIGURES["rd-psnr"]})
    page, folder = tmp_path / "README.md", tmp_path / "results" / "tables"
    page.write_text("<!-- table: kodak-direct -->\n<!-- /table -->\n")
    (folder / "laplacian.md").unlink()
    written = tables.stale(tmp_path, write=True)
    assert {page, folder / "laplacian.md", tmp_path / "book/figures/rd-psnr.svg"} <= set(written)
    for path in folder.iterdir():
        assert path.read_bytes() == (ROOT / "results" / "tables" / path.name).read_bytes()
    text = page.read_text(encoding="utf-8")
    assert "| quality |" in text
    page.write_text(text.replace("| 1 |", "| 9 |"), encoding="utf-8")
    assert tables.stale(tmp_path, write=True) == [page]
    assert page.read_text(encoding="utf-8") == text
    file = tmp_path / KODAK / "webp.json"
    content = json.loads(file.read_text())
    for row in content["rows"]:
        row["bpp"] *= 2
    file.write_text(json.dumps(content))
    found = {path.name for path in tables.stale(tmp_path, write=False)}
    assert {"averages.csv", "rd-psnr.svg", "kodak-direct-bd.md"} <= found
    assert "laplacian.md" not in found


def test_a_cell_of_a_table_stands_in_a_line_or_is_missed_by_name(tables):
    blocks = {"t": "| a | b | c |\n| --- | --- | --- |\n| 1 (ships) | 2 | x |\n| 1 | 3 | y |\n"}
    text = "| so <!-- cell: t / 1 / 2 / c -->old<!-- /cell --> |"
    assert tables.fill(text, blocks) == text.replace("old", "x")
    for path in ("t / 1 / c", "t / 9 / c", "t / 1 / 2 / d"):  # two rows, none, no such column
        with pytest.raises(KeyError, match=path):
            tables.fill(f"<!-- cell: {path} --><!-- /cell -->", blocks)
