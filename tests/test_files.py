"""Files that are written whole or not at all."""

import os

import pytest

from blurlib.files import atomic_write


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new", overwrite=True)
    assert os.listdir(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_impossible_targets(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        atomic_write(tmp_path / "none" / "a.bin", b"")
    with pytest.raises(IsADirectoryError, match="folder"):
        atomic_write(tmp_path, b"", overwrite=True)
    with pytest.raises(OSError, match="device"):
        atomic_write(os.devnull, b"", overwrite=True)


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    atomic_write(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
