"""Every number in README, book and model cards is what results/ says."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_number_is_stale(tables):
    assert tables.stale(ROOT, write=False) == []


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
