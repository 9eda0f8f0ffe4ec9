"""The experiments that try the library's promises: they must find a fault that is there."""

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blurlib import files, images
from blurlib.codec import BlurCodec
from blurlib.codec.bitstream import BlurFile
from conftest import one_line_error
from experiments.portability import __main__ as portability
from experiments.robustness import fuzz, kill, matrix, mutate, soak
from experiments.robustness.__main__ import app

pytestmark = pytest.mark.slow  # readers in processes of their own
ORDER = ["blur", "picture", "results", "weights"]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> fuzz.Subjects:
    found = fuzz.Subjects(tmp_path_factory.mktemp("cases"))
    assert list(found.readers) == ORDER
    assert found.files  # made here, with readers as they are
    return found


def numbers(target: str, count: int) -> list[int]:
    """The first cases of a target."""
    return list(range(ORDER.index(target), 4 * count, 4))


def test_files_that_were_not_damaged_are_read_and_stay_as_they_are(subjects):
    for target, reader in subjects.readers.items():
        for data in subjects.files[target]:
            assert mutate.repaired(data) == data
            if target != "picture":  # some of those are refused by kind
                reader(data)


def test_checksums_and_lengths_are_set_right(subjects, astronaut):
    blur = bytearray(subjects.files["blur"][0])
    blur[-1] ^= 1
    BlurFile.from_bytes(mutate.repaired(bytes(blur)))
    buffer = io.BytesIO()
    images.to_pillow(astronaut[:, :9, :9]).save(buffer, "PNG")
    data = buffer.getvalue()
    end = data.index(b"IDAT") - 4  # behind the CRC of the header
    damaged = data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(damaged), formats=["PNG"])
    assert mutate.repaired(damaged) == data
    weights = subjects.files["weights"][0]
    longer = weights.replace(b"{", b"{  ", 1)
    with pytest.raises(ValueError, match="not a blurlib model"):
        subjects.weights(longer)
    subjects.weights(mutate.repaired(longer))


def test_fuzz_goes_on_where_it_stopped(run, tmp_path, monkeypatch, subjects):
    monkeypatch.setattr(fuzz, "BLOCK", 20)
    monkeypatch.setattr(fuzz, "Subjects", lambda _: subjects)
    out, whole = tmp_path / "two.json", tmp_path / "one.json"
    for cases, jobs in ((20, 1), (60, 2)):
        assert run("fuzz", out, "--cases", cases, "--jobs", jobs, app=app)[0] == 0
    run("fuzz", whole, "--cases", 60, app=app)
    two, one = (json.loads(path.read_text()) for path in (out, whole))
    assert two["counts"] == one["counts"]
    assert sum(n for counts in one["counts"].values() for n in counts.values()) == 60
    assert one["failures"] == []
    assert {name for counts in one["counts"].values() for name in counts} <= set(fuzz.GOOD)
    one_line_error(run("fuzz", out, "--seed", 1, app=app), "another seed")


def planted(kind: str):
    """What stands in for the reader of pictures."""
    if kind == "other exception":
        raise KeyError("planted")
    if kind == "several lines":
        raise ValueError("one\ntwo")
    if kind == "memory":
        bytearray(2**33)
    if kind == "crash":
        os._exit(3)
    while kind == "hang":
        pass
    return torch.zeros(1, 2, 2)  # a wrong picture


@pytest.mark.parametrize(
    "kind", ["other exception", "several lines", "memory", "crash", "hang", "wrong picture"]
)
def test_a_planted_fault_is_counted_and_the_next_cases_are_tried(subjects, monkeypatch, kind):
    monkeypatch.setattr(images, "decode_image", lambda _: planted(kind))
    monkeypatch.setattr(fuzz, "SECONDS", 0)
    tried = numbers("picture", 2) + numbers("results", 2)
    done = list(fuzz.cases_done(subjects, 0, tried))
    assert [d.number for d in done] == tried
    assert [d.outcome for d in done[:2]] == [kind, kind]
    assert {d.outcome for d in done[2:]} <= set(fuzz.GOOD)


def test_a_decoder_that_forgets_the_checksum_of_the_symbols_is_found(subjects, monkeypatch):
    tried = numbers("blur", 60)
    before = list(fuzz.cases_done(subjects, 0, tried))
    assert {d.outcome for d in before} <= set(fuzz.GOOD)
    monkeypatch.setattr(BlurCodec, "decode_latent", BlurCodec.decode_streams)
    after = list(fuzz.cases_done(subjects, 0, tried))
    assert "wrong picture" in {d.outcome for d in after}


def test_a_soak_notes_memory_and_what_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "POOL", 2)
    out, kept = tmp_path / "soak.json", []
    soak.soak(out, 4, 0)
    record = json.loads(out.read_text())
    assert (record["rounds"], record["changed"]) == (4, 0)
    assert list(record["resident_mb"]) == ["0", "1", "2", "3", "4"]

    def leak(*_):
        kept.append(np.ones(5 * 2**20))  # too large for the allocator to find it in what is free
        return len(kept)

    monkeypatch.setattr(soak, "there_and_back", leak)
    soak.soak(out, 8, 0)
    record = json.loads(out.read_text())
    assert record["changed"] == 8
    assert record["kb_per_1000_rounds"] == pytest.approx(5 * 2**23, rel=0.3)


def in_place(path: Path, data: bytes, overwrite: bool = False) -> None:
    """A writer that a kill can interrupt."""
    with open(path, "wb", buffering=0) as file:
        file.write(data[:3])
        time.sleep(0.3)
        file.write(data[3:])


@pytest.mark.parametrize("writer", [in_place, files.atomic_write])
def test_a_file_that_is_half_written_is_found(tmp_path, writer):
    class Writes(kill.Compress):
        def start(self):
            if child := os.fork():
                return child
            try:
                time.sleep(0.1)
                writer(self.target, b"a new file", overwrite=True)
            finally:
                os._exit(0)

    trial, rng = Writes(tmp_path, tmp_path), np.random.default_rng(0)
    trial.seconds, found = 0.3, []
    for _ in range(20):
        try:
            trial.round(rng)
        except ValueError as error:
            found.append("neither the earlier file nor the new one" in str(error))
            trial.renew()
    assert all(found)
    assert any(found) == (writer is in_place)
    assert trial.counts["killed"] > 0


def test_every_command_survives_kills(run, tmp_path):
    out = tmp_path / "kill.json"
    assert run("kill", out, "--rounds", 4, app=app)[0] == 0
    record = json.loads(out.read_text())
    assert record["wrong"] == []
    assert {name: counts["rounds"] for name, counts in record["commands"].items()} == {
        "compress": 2, "evaluate": 1, "train": 1
    }  # fmt: skip


@pytest.fixture
def small_matrix(monkeypatch):
    monkeypatch.setattr(matrix, "MODELS", ["mse-small"])
    monkeypatch.setattr(matrix, "SIZES", [(64, 64)])
    monkeypatch.setattr(matrix, "THREADS", [1])
    monkeypatch.setattr(portability, "BATCH", 3)  # files of a size


def test_a_matrix_counts_what_comes_out_differently(small_matrix):
    models = matrix.reference()
    same = matrix.worker(models)
    assert [(row["threads"], row["batch"]) for row in same] == [(1, 1), (1, 8)]
    for row in same:
        assert (row["decodes"], row["encodes"]) == (3, 3)
        assert not any(row[k] for k in ("other_symbols", "checksum_errors", "other_bytes"))
    models["mse-small"]["y_hat"][2] = "0" * 64
    files = models["mse-small"]["files"]
    files[0], files[1] = files[1], files[0]
    for row in matrix.worker(models):
        assert (row["other_symbols"], row["other_bytes"]) == (3, 2)
