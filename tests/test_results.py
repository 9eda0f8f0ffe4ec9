import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from blurlib import images, metrics
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
    dataset="two",
    codec="toy",
    settings={"method": 6},
    checkpoint=None,
    commit="abc",
    device="cpu",
    versions={"torch": "2"},
    seed=3,
    rows=ROWS,
)


class Shift:
    """A codec that is easy to predict: ``quality`` high bits of every value, one byte each."""

    name = "shift"

    def __init__(self, **settings):
        self.settings = settings
        self.encoded = 0

    def encode(self, image, quality):
        self.encoded += 1
        kept = image.numpy() & (0xFF << (8 - quality) & 0xFF)
        return bytes(image.shape[1:]) + kept.tobytes()

    def decode(self, data):
        kept = np.frombuffer(data[2:], np.uint8).reshape(3, data[0], data[1])
        return torch.from_numpy(kept.copy())


@pytest.fixture
def photos(tmp_path, astronaut):
    """A folder of two images, the first 200 × 180 and the second too small for MS-SSIM."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images.write_image(folder / "a.png", astronaut[:, :200, :180])
    images.write_image(folder / "b.png", astronaut[:, 200:220, :30])
    return folder


# ---------------------------------------------------------------- files


def test_round_trip_and_order(tmp_path):
    res.write(tmp_path / "a.json", RESULTS)
    back = res.read(tmp_path / "a.json")
    assert back.header() == RESULTS.header()
    assert [(r.image, r.quality) for r in back.rows] == [
        ("a.png", 1), ("a.png", 2.5), ("b.png", 1), ("b.png", 2.5)
    ]  # fmt: skip
    assert math.isnan(back.rows[0].lpips)
    assert back.rows[3].psnr == math.inf
    assert {(r.image, r.bytes, r.bpp, r.ms_ssim) for r in back.rows} == {
        (r.image, r.bytes, r.bpp, r.ms_ssim) for r in ROWS
    }


def test_the_same_results_are_the_same_bytes_one_row_a_line(tmp_path):
    res.write(tmp_path / "a.json", RESULTS)
    shuffled = replace(RESULTS, rows=ROWS[::-1], settings=dict(RESULTS.settings))
    res.write(tmp_path / "b.json", shuffled)
    res.write(tmp_path / "b.json", res.read(tmp_path / "b.json"), overwrite=True)
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    lines = [line for line in text.splitlines() if '"image"' in line]
    assert len(lines) == 4
    assert "NaN" not in text  # nor Infinity: standard JSON knows neither
    assert "Infinity" not in text


def test_extra_fields_survive(tmp_path):
    row = replace(ROWS[0], extra={"estimated_bits": 790.5})
    res.write(tmp_path / "a.json", replace(RESULTS, rows=(row,)))
    assert res.read(tmp_path / "a.json").rows[0].extra == {"estimated_bits": 790.5}


def test_results_without_rows(tmp_path):
    res.write(tmp_path / "a.json", replace(RESULTS, rows=()))
    assert res.read(tmp_path / "a.json") == replace(RESULTS, rows=())


def test_existing_file_is_kept(tmp_path):
    res.write(tmp_path / "a.json", RESULTS)
    with pytest.raises(FileExistsError):
        res.write(tmp_path / "a.json", RESULTS)
    res.write(tmp_path / "a.json", RESULTS, overwrite=True)


def damaged(content, **changes):
    return json.dumps({**content, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: "{", "not JSON"),
        (lambda c: "[]", "not a results file"),
        (lambda c: '{"a": 1}', "not a results file"),
        (lambda c: damaged(c, protocol=2), "protocol 2, this blurlib reads 1; measure it again"),
        (lambda c: damaged(c, surprise=2), "surprise"),
        (lambda c: json.dumps({k: v for k, v in c.items() if k != "rows"}), "rows"),
        (lambda c: json.dumps({k: v for k, v in c.items() if k != "codec"}), "codec"),
        (lambda c: damaged(c, rows=[{"image": "a.png"}]), "missing"),
        (lambda c: damaged(c, rows=[{**c["rows"][0], "psnr": "high"}]), "high"),
        (lambda c: damaged(c, rows=[{**c["rows"][0], "bytes": None}]), "wrong type"),
        (lambda c: damaged(c, rows=[c["rows"][0]] * 2), "two rows"),
        (lambda c: damaged(c, rows=7), "field"),
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


# ---------------------------------------------------------------- measuring


def test_measure_is_what_the_metrics_say(photos, astronaut):
    row = next(res.measure(Shift(), [photos / "a.png"], [3]))
    image = astronaut[:, :200, :180]
    shifted = image & 0b11100000
    assert (row.image, row.quality, row.bytes) == ("a.png", 3, 2 + 3 * 200 * 180)
    assert row.bpp == pytest.approx(8 * row.bytes / (200 * 180), abs=1e-6)
    assert row.psnr == pytest.approx(metrics.psnr(image, shifted), abs=1e-5)
    assert row.ms_ssim == pytest.approx(metrics.ms_ssim(image, shifted), abs=1e-8)
    assert math.isnan(row.lpips)
    assert row.encode_s >= 0
    assert row.decode_s >= 0


def test_measure_takes_a_distance_and_extra_fields(photos):
    class MeanDistance(nn.Module):
        def forward(self, x, y):
            assert x.shape[0] == 1
            assert x.max() <= 1
            return (x - y).mean((1, 2, 3))

    rows = res.measure(
        Shift(),
        sorted(photos.iterdir()),
        [2],
        lpips=MeanDistance(),
        extra=lambda image, quality, data: {"estimated_bits": 8 * len(data) - 5},
    )
    large, small = rows
    assert 0 < large.lpips < 1
    assert math.isnan(small.lpips)
    assert math.isnan(small.ms_ssim)
    assert large.extra == {"estimated_bits": 8 * large.bytes - 5}


def test_evaluate_writes_resumes_and_refuses_a_mixture(photos, tmp_path):
    out = tmp_path / "out"
    file = out / "photos" / "shift.json"
    codec = Shift(bits=8)
    first = list(res.evaluate(photos, codec, [1, 2], out, seed=5))
    assert codec.encoded == 4
    assert [(r.image, r.quality) for r in first] == [
        ("a.png", 1), ("a.png", 2), ("b.png", 1), ("b.png", 2)
    ]  # fmt: skip
    before = file.read_bytes()
    again = list(res.evaluate(photos, codec, [1, 2], out, seed=5))
    assert codec.encoded == 4
    assert [r.bytes for r in again] == [r.bytes for r in first]
    assert file.read_bytes() == before
    assert len(list(res.evaluate(photos, codec, [2, 3], out, seed=5))) == 4
    assert codec.encoded == 6
    assert len(res.read(file).rows) == 6
    with pytest.raises(ResultsError, match=r"shift\.json.*another settings.*overwrite"):
        list(res.evaluate(photos, Shift(bits=7), [1], out, seed=5))
    with pytest.raises(ResultsError, match="another seed"):
        list(res.evaluate(photos, codec, [1], out))
    assert len(list(res.evaluate(photos, Shift(bits=7), [1], out, overwrite=True))) == 2
    assert len(res.read(file).rows) == 2


def test_an_interrupted_evaluation_keeps_whole_images(photos, tmp_path):
    codec = Shift()
    rows = res.evaluate(photos, codec, [1, 2], tmp_path)
    next(rows)
    rows.close()
    assert [r.image for r in res.read(tmp_path / "photos" / "shift.json").rows] == ["a.png"] * 2
    assert len(list(res.evaluate(photos, codec, [1, 2], tmp_path))) == 4
    assert codec.encoded == 4


def test_header_says_what_was_measured(photos, tmp_path):
    header = res.new_results(photos, Shift(bits=8), checkpoint="f00", seed=1)
    assert (header.dataset, header.codec, header.settings) == ("photos", "shift", {"bits": 8})
    assert (header.checkpoint, header.seed, header.protocol) == ("f00", 1, res.PROTOCOL)
    assert header.versions["torch"] == torch.__version__.split("+")[0]


# ---------------------------------------------------------------- tables


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


def test_a_column_not_applicable_to_one_image_has_no_mean():
    rows = (replace(ROWS[0], ms_ssim=math.nan), *ROWS[1:])
    table = res.averages(replace(RESULTS, rows=rows))
    assert math.isnan(table.loc[1, "ms_ssim"])
    assert math.isnan(table.loc[1, "ms_ssim_db"])
    assert table.loc[2.5, "ms_ssim"] == pytest.approx(0.995)


def test_averages_over_different_images_are_refused():
    with pytest.raises(ResultsError, match="lack images"):
        res.averages(replace(RESULTS, rows=ROWS[:3]))
    with pytest.raises(ResultsError, match="no rows"):
        res.averages(replace(RESULTS, rows=()))
