import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from blurlib.evaluation import results as res
from blurlib.evaluation.results import Results, ResultsError, Row

ROWS = tuple(
    Row(name, quality, n_bytes, n_bytes / 1000, psnr, m, math.nan, 0.5, 0.25)
    for name, quality, n_bytes, psnr, m in [
        ("b.png", 1, 100, 30.0, 0.9),
        ("b.png", 2.5, 300, math.inf, 1.0),
        ("a.png", 1, 200, 32.0, 0.8),
        ("a.png", 2.5, 500, 40.0, 0.99),
    ]
)
RESULTS = Results(
    dataset="two", codec="toy", settings={"method": 6}, checkpoint=None, lpips=None, commit="abc",
    device="cpu", versions={"torch": "2"}, seed=3, rows=ROWS,
)  # fmt: skip


def test_round_trip_and_order(tmp_path):
    with_extra = replace(ROWS[2], extra={"estimated_bits": 790.5})
    res.write(tmp_path / "a.json", replace(RESULTS, rows=(*ROWS[:2], with_extra, ROWS[3])))
    back = res.read(tmp_path / "a.json")
    assert back.header() == RESULTS.header()
    assert [(r.image, r.quality) for r in back.rows] == [
        ("a.png", 1), ("a.png", 2.5), ("b.png", 1), ("b.png", 2.5)
    ]  # fmt: skip
    assert math.isnan(back.rows[0].lpips)
    assert back.rows[0].extra == {"estimated_bits": 790.5}
    assert back.rows[3].psnr == math.inf
    for row in ROWS:
        (same,) = (r for r in back.rows if (r.image, r.quality) == (row.image, row.quality))
        assert (same.bytes, same.bpp, same.ms_ssim) == (row.bytes, row.bpp, row.ms_ssim)


def test_the_same_results_are_the_same_bytes_one_row_a_line(tmp_path):
    res.write(tmp_path / "a.json", RESULTS)
    res.write(tmp_path / "b.json", replace(RESULTS, rows=ROWS[::-1]))
    res.write(tmp_path / "b.json", res.read(tmp_path / "b.json"), overwrite=True)
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    lines = [line for line in text.splitlines() if '"image"' in line]
    assert len(lines) == 4
    assert "NaN" not in text  # nor Infinity: standard JSON knows neither
    assert "Infinity" not in text
    with pytest.raises(FileExistsError):
        res.write(tmp_path / "a.json", RESULTS)
    empty = replace(RESULTS, rows=())
    res.write(tmp_path / "b.json", empty, overwrite=True)
    assert res.read(tmp_path / "b.json") == empty


def damaged(content, **changes):
    return json.dumps({**content, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: "{", "not JSON"),
        (lambda c: '{"a": 1}', "not a results file"),
        (lambda c: damaged(c, protocol=1), "protocol 1, this blurlib reads 2; measure it again"),
        (lambda c: damaged(c, distances=[]), "distances.*measure it again"),
        (lambda c: json.dumps({k: v for k, v in c.items() if k != "rows"}), "rows"),
        (lambda c: damaged(c, rows=[{**c["rows"][0], "psnr": "high"}]), "high"),
        (lambda c: damaged(c, rows=[{**c["rows"][0], "bytes": None}]), "not of its type"),
        (lambda c: damaged(c, rows=[{**c["rows"][0], "bpp": -0.1}]), "bpp is -0.1"),
        (lambda c: damaged(c, rows=[{**c["rows"][0], "ms_ssim": 1.5}]), "ms_ssim 1.5"),
        (lambda c: damaged(c, rows=[{**c["rows"][0], "bytes": math.inf}]), "infinity"),
        (lambda c: json.dumps(c).replace('"bpp": 0.1', '"bpp": 1e400', 1), "bpp is inf"),
        (lambda c: damaged(c, rows=["row"]), "not of its type"),
        (lambda c: damaged(c, rows=[{**c["rows"][0], "image": {}}]), "image is no text"),
        (lambda c: "[" * 100_000, "not JSON"),
        (lambda c: damaged(c, rows=[c["rows"][0]] * 2), "two rows"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, change, message):
    path = tmp_path / "a.json"
    res.write(path, RESULTS)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(ResultsError, match=message) as caught:
        res.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_files_of_the_same_images_are_compared():
    seen = replace(RESULTS, rows=tuple(replace(row, content="ab") for row in ROWS))
    for other in (RESULTS, seen):  # a file from before does not say
        res.check_comparable(seen, other)
    changed = (*(replace(row, content="cd") for row in seen.rows[:2]), *seen.rows[2:])
    renamed = (replace(ROWS[0], image="new.png"), *ROWS[1:])
    for other, message in (
        (replace(seen, dataset="clic"), "compare codecs on one set"),
        (replace(seen, rows=changed), "is another image than that of"),
        (replace(seen, rows=renamed), "new.png was measured with one of"),
    ):
        with pytest.raises(ResultsError, match=message):
            res.check_comparable(seen, other)


def test_header_says_what_was_measured(tmp_path):
    codec = SimpleNamespace(name="toy", settings={"bits": 8, "sizes": (1, 2)})
    how = {"checkpoint": "f00", "seed": 1, "lpips": "vgg", "jobs": 3}
    results = res.new_results(tmp_path / "photos", codec, **how)
    assert (results.dataset, results.codec) == ("photos", "toy")
    assert results.settings == {"bits": 8, "sizes": [1, 2]}  # as JSON has it, to be compared
    assert (results.checkpoint, results.seed, results.lpips) == ("f00", 1, "vgg")
    assert results.protocol == res.PROTOCOL
    assert results.versions["torch"] == torch.__version__.split("+")[0]
    assert results.device.endswith(", 3 jobs × 1 thread")
    alone = res.new_results(tmp_path / "photos", codec)
    assert f"1 job × {torch.get_num_threads()} thread" in alone.device
    assert RESULTS.identity() == replace(RESULTS, device="gpu", commit="def").identity()
    assert RESULTS.identity() != replace(RESULTS, lpips="vgg").identity()
    assert res.results_file("out", tmp_path / "photos", codec) == Path("out/photos/toy.json")


def test_averages_follow_the_protocol():
    table = res.averages(RESULTS)
    assert list(table.index) == [1, 2.5]
    assert table.loc[1, "bpp"] == pytest.approx(0.15)
    assert table.loc[1, "psnr"] == pytest.approx(31)
    assert table.loc[1, "ms_ssim"] == pytest.approx(0.85)
    assert table.loc[1, "ms_ssim_db"] == pytest.approx(-10 * math.log10(0.15))  # dB after the mean
    assert table.loc[2.5, "psnr"] == math.inf
    assert table["images"].tolist() == [2, 2]
    assert "extra" not in table
    rows = (replace(ROWS[0], ms_ssim=math.nan), *ROWS[1:])  # not applicable to one of the images
    table = res.averages(replace(RESULTS, rows=rows))
    assert table["ms_ssim"].isna().tolist() == table["ms_ssim_db"].isna().tolist() == [True, False]
    for rows, message in ((ROWS[:3], "lack images"), ((), "no rows")):
        with pytest.raises(ResultsError, match=message):
            res.averages(replace(RESULTS, rows=rows))
