"""Measuring a set: what a row says, going on after every kind of end, several processes."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blurlib import images, metrics
from blurlib.evaluation import measure as m
from blurlib.evaluation import processes
from blurlib.evaluation import results as res
from blurlib.evaluation.processes import WorkerError
from blurlib.evaluation.results import ResultsError
from stand_ins import Distance


@dataclass
class Shift:
    """A codec that is easy to predict: ``quality`` high bits of every value, one byte each."""

    settings: dict = field(default_factory=dict)
    encoded: int = 0
    name: str = "shift"

    def encode(self, image, quality):
        self.encoded += 1
        kept = image.numpy() & (0xFF << (8 - int(quality)) & 0xFF)
        return np.array(image.shape[1:], np.uint16).tobytes() + kept.tobytes()

    def decode(self, data):
        height, width = np.frombuffer(data[:4], np.uint16)
        kept = np.frombuffer(data[4:], np.uint8).reshape(3, height, width)
        return torch.from_numpy(kept.copy())


@dataclass
class Slow(Shift):
    """Takes its time, and leaves a file named by its process."""

    folder: Path = Path()

    def encode(self, image, quality):
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.1)
        return super().encode(image, quality)


@dataclass
class Fails(Shift):
    """Fails on the image whose first value is 7: with an error, or by the death of its process."""

    how: str = "error"
    once: Path | None = None  # exists after the first failure, and there is no second one

    def encode(self, image, quality):
        if image[0, 0, 0] == 7 and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("no such\nluck")
        return super().encode(image, quality)


@pytest.fixture
def photos(tmp_path, astronaut):
    """A folder of two images, the first 200 × 180 and the second too small for MS-SSIM."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images.write_image(folder / "a.png", astronaut[:, :200, :180])
    images.write_image(folder / "b.png", astronaut[:, 200:220, :30])
    return folder


@pytest.fixture
def large(tmp_path, astronaut):
    """A folder of four images; the third starts with a 7."""
    folder = tmp_path / "large"
    folder.mkdir()
    for i, height in enumerate((256, 512, 300, 511)):
        image = astronaut.roll(100 * i, 2)[:, :height, :300].clone()
        image[0, 0, 0] = 7 if i == 2 else 0
        images.write_image(folder / f"{i}.png", image)
    return folder


def keys(rows):
    return [(row.image, row.quality) for row in rows]


def without_times(results):
    """Rows in order, with what may differ between two runs left out."""
    return [replace(row, encode_s=0, decode_s=0, lpips=0, ms_ssim=0) for row in results.rows]


def test_a_row_is_what_the_metrics_say(photos, astronaut):
    (row,) = m.measure(Shift(), photos / "a.png", [3])
    image = astronaut[:, :200, :180]
    shifted = image & 0b11100000
    assert (row.image, row.quality, row.bytes) == ("a.png", 3, 4 + 3 * 200 * 180)
    assert row.bpp == pytest.approx(8 * row.bytes / (200 * 180), abs=1e-6)
    assert row.psnr == pytest.approx(metrics.psnr(image, shifted), abs=1e-5)
    assert row.ms_ssim == pytest.approx(metrics.ms_ssim(image, shifted), abs=1e-8)
    assert math.isnan(row.lpips)
    assert min(row.encode_s, row.decode_s) >= 0
    extra = {"extra": lambda image, quality, data: {"estimated_bits": 8 * len(data) - 5}}
    with_what = {"lpips": Distance(), **extra}
    large, small = (m.measure(Shift(), photos / f"{n}.png", [2], **with_what)[0] for n in "ab")
    assert 0 < large.lpips < 1
    assert math.isnan(small.lpips)
    assert math.isnan(small.ms_ssim)
    assert large.extra == {"estimated_bits": 8 * large.bytes - 5}


@pytest.mark.slow
def test_a_codec_that_fails_or_changes_the_size_is_named_with_the_image(photos, large, tmp_path):
    class Crops(Shift):
        def decode(self, data):
            return super().decode(data)[:, :-1]

    with pytest.raises(ResultsError, match=r"a\.png: shift at quality 2: .*180×199.*180×200"):
        list(m.evaluate(photos, Crops(), [2], tmp_path))
    with pytest.raises(ResultsError, match=r"2\.png: shift at quality 2: no such luck$"):
        list(m.evaluate(large, Fails(), [2, 3], tmp_path))
    assert {r.image for r in res.read(tmp_path / "large" / "shift.json").rows} == {"0.png", "1.png"}


def test_evaluate_writes_resumes_and_refuses_a_mixture(photos, tmp_path):
    out = tmp_path / "out"
    file = out / "photos" / "shift.json"
    codec = Shift({"bits": 8})
    first = list(m.evaluate(photos, codec, [1, 2], out, seed=5))
    assert codec.encoded == 4
    assert keys(first) == [("a.png", 1), ("a.png", 2), ("b.png", 1), ("b.png", 2)]
    before = file.read_bytes()
    again = list(m.evaluate(photos, codec, [1, 2, 1], out, seed=5))
    assert codec.encoded == 4
    assert [r.bytes for r in again] == [r.bytes for r in first]
    assert file.read_bytes() == before
    assert len(list(m.evaluate(photos, codec, [2, 3], out, seed=5))) == 4
    assert codec.encoded == 6
    assert len(res.read(file).rows) == 6
    with pytest.raises(ResultsError, match=r"shift\.json.*another settings.*--force"):
        list(m.evaluate(photos, Shift({"bits": 7}), [1], out, seed=5))
    with pytest.raises(ResultsError, match="another seed"):
        list(m.evaluate(photos, codec, [1], out))
    other = {"seed": 5, "lpips": Distance(), "lpips_name": "squeeze"}
    with pytest.raises(ResultsError, match=r"another lpips .*None there, squeeze here"):
        list(m.evaluate(photos, codec, [1], out, **other))
    assert len(list(m.evaluate(photos, Shift({"bits": 7}), [1], out, overwrite=True))) == 2
    assert len(res.read(file).rows) == 2


def test_an_interrupted_evaluation_keeps_whole_images_and_present_rows_come_first(photos, tmp_path):
    codec = Shift()
    rows = m.evaluate(photos, codec, [2, 3], tmp_path)
    next(rows)
    rows.close()
    assert keys(res.read(tmp_path / "photos" / "shift.json").rows) == [("a.png", 2), ("a.png", 3)]
    rows = m.evaluate(photos, codec, [1, 2], tmp_path)
    assert keys(rows) == [("a.png", 2), ("a.png", 1), ("b.png", 1), ("b.png", 2)]
    assert codec.encoded == 5


def test_other_images_of_the_same_names_are_not_taken_for_these(photos, tmp_path):
    out, codec = tmp_path / "out", Shift()
    list(m.evaluate(photos, codec, [2], out))
    same = tmp_path / "elsewhere" / photos.name
    shutil.copytree(photos, same)
    list(m.evaluate(same, codec, [2], out))
    first = min(same.iterdir())
    images.write_image(first, 255 - images.read_image(first), overwrite=True)
    with pytest.raises(ResultsError, match=f"rows of another {first.name} than that of this set"):
        list(m.evaluate(same, codec, [2], out))


def test_two_at_once_do_not_share_a_file(photos, tmp_path):
    out = tmp_path / "out"
    rows = m.evaluate(photos, Shift(), [2], out)
    next(rows)
    with pytest.raises(OSError, match="another process is writing there"):
        next(m.evaluate(photos, Shift(), [3], out))
    rows.close()
    assert len(list(m.evaluate(photos, Shift(), [2, 3], out))) == 4


def test_other_circumstances_are_listed_and_lose_nothing(photos, tmp_path):
    codec, file = Shift(), tmp_path / "photos" / "shift.json"
    list(m.evaluate(photos, codec, [1], tmp_path))
    here = res.read(file)
    res.write(file, replace(here, device="a slower one", commit="0ld"), overwrite=True)
    for qualities in ([1, 2], [3]):
        list(m.evaluate(photos, codec, qualities, tmp_path))
        assert res.read(file).device == f"a slower one; {here.device}"
    assert codec.encoded == 6
    assert res.read(file).commit == ("0ld" if here.commit is None else f"0ld; {here.commit}")
    (photos / "b.png").rename(photos / "c.png")
    with pytest.raises(ResultsError, match=r"shift\.json: has rows of b\.png, .*not in the set"):
        list(m.evaluate(photos, Shift(), [1], tmp_path))


@pytest.mark.slow
def test_several_processes_measure_what_one_does(large, tmp_path):
    for jobs in (1, 2):
        how = {"jobs": jobs, "lpips": Distance()}
        rows = m.evaluate(large, Shift(), [2, 3], tmp_path / str(jobs), **how)
        assert Counter(keys(rows)) == Counter((f"{i}.png", q) for i in range(4) for q in (2, 3))
    one, two = (res.read(tmp_path / str(jobs) / "large" / "shift.json") for jobs in (1, 2))
    assert without_times(one) == without_times(two)
    for a, b in zip(one.rows, two.rows, strict=True):
        assert (a.ms_ssim, a.lpips) == pytest.approx((b.ms_ssim, b.lpips), abs=1e-7)
    assert two.device.endswith("2 jobs × 1 thread")
    list(m.evaluate(large, Shift(), [2, 3, 4], tmp_path / "2", lpips=Distance()))
    resumed = res.read(tmp_path / "2" / "large" / "shift.json")
    assert len(resumed.rows) == 12
    assert resumed.device.startswith(f"{two.device}; ")


@pytest.mark.slow
def test_a_worker_that_fails_or_is_killed_is_an_error_and_its_image_comes_later(large, tmp_path):
    with pytest.raises(ResultsError, match=r"2\.png: shift at quality 2: no such luck$"):
        list(m.evaluate(large, Fails(), [2], tmp_path / "error", jobs=2))
    codec = Fails(how="killed", once=tmp_path / "killed")
    with pytest.raises(WorkerError, match=r"a worker process died.*goes on where it stopped"):
        list(m.evaluate(large, codec, [2], tmp_path, jobs=2))
    rows = list(m.evaluate(large, codec, [2], tmp_path))
    assert sorted(keys(rows)) == [(f"{i}.png", 2) for i in range(4)]
    assert len(res.read(tmp_path / "large" / "shift.json").rows) == 4


def test_work_that_cannot_be_shared_is_refused(photos, tmp_path):
    codec = Shift({"lock": threading.Lock()})
    with pytest.raises(WorkerError, match="cannot be sent to other processes; use one job"):
        list(processes.share(codec.encode, [1, 2], jobs=2))
    with pytest.raises(ValueError, match="jobs is 0"):
        list(m.evaluate(photos, Shift(), [1], tmp_path, jobs=0))


SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
from test_measure import Slow
from blurlib.evaluation import measure

if __name__ == "__main__":
    photos, out, pids = map(Path, sys.argv[1:])
    for row in measure.evaluate(photos, Slow(folder=pids), [1, 2, 3], out, jobs=2):
        print(row.image, flush=True)
"""


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_run_killed_at_any_time_leaves_no_process_and_goes_on(large, tmp_path):
    pids, out, script = tmp_path / "pids", tmp_path / "out", tmp_path / "run.py"
    pids.mkdir()
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    file = out / "large" / "shift.json"
    seed = random.randrange(10**6)
    print("seed", seed)  # shown when the test fails
    chance = random.Random(seed)
    for how in (signal.SIGKILL, signal.SIGINT):
        run = subprocess.Popen(
            [sys.executable, script, large, out, pids], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        run.stdout.readline()  # present or measured: now it is at work
        time.sleep(chance.uniform(0, 1))
        send = os.killpg if how == signal.SIGINT else os.kill  # Ctrl-C goes to the whole group
        send(run.pid, how)
        _, errors = run.communicate(timeout=60)
        if how == signal.SIGINT:  # workers say nothing
            assert errors.count("Traceback") <= 1, errors
        deadline = time.monotonic() + 20
        while workers := [pid for pid in os.listdir(pids) if alive(pid)]:
            assert time.monotonic() < deadline, workers
            time.sleep(0.05)
        if file.exists():
            images_seen = Counter(row.image for row in res.read(file).rows)
            assert set(images_seen.values()) <= {3}  # whole images only
    list(m.evaluate(large, Shift(), [1, 2, 3], out))
    results = res.read(file)
    assert sorted(keys(results.rows)) == [(f"{i}.png", q) for i in range(4) for q in (1, 2, 3)]
    list(m.evaluate(large, Shift(), [1, 2, 3], tmp_path / "calm"))
    calm = res.read(tmp_path / "calm" / "large" / "shift.json")
    assert without_times(results) == without_times(calm)
    assert json.loads(file.read_text())["protocol"] == 2
