"""Files that are written whole or not at all."""

import io
import os

import pytest

from blurlib import files
from blurlib.files import atomic_write, check_writable


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


def test_impossible_targets(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        atomic_write(tmp_path / "none" / "a.bin", b"")
    with pytest.raises(IsADirectoryError, match="folder"):
        atomic_write(tmp_path, b"", overwrite=True)
    monkeypatch.chdir(tmp_path)
    with files.alone("."), pytest.raises(OSError, match="another process"), files.alone(tmp_path):
        pass
    with pytest.raises(OSError, match="device"):
        atomic_write(os.devnull, b"", overwrite=True)


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    atomic_write(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_stays_and_what_it_points_to_is_replaced_with_its_permissions(tmp_path):
    path, link = tmp_path / "a.bin", tmp_path / "link.bin"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path.name)
    atomic_write(link, b"new", overwrite=True)
    assert (link.is_symlink(), path.read_bytes()) == (True, b"new")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("links", [True, False])  # as on FAT
def test_of_two_writers_of_a_new_file_one_is_told(tmp_path, monkeypatch, links):
    path = tmp_path / "a.bin"

    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    atomic_write(path, b"only")
    assert path.read_bytes() == b"only"
    path.unlink()
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"the other's"))
    with pytest.raises(FileExistsError, match=r"a\.bin: exists and is kept.*--force"):
        atomic_write(path, b"ours")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"the other's", ["a.bin"])


def test_what_is_read_only_is_found_before_the_work(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"")
    denied = {path}
    monkeypatch.setattr(os, "access", lambda path, _: path not in denied)  # root may do anything
    with pytest.raises(PermissionError, match=r"a\.bin: is read-only"):
        check_writable(path, overwrite=True)
    denied = {tmp_path}
    with pytest.raises(PermissionError, match=rf"b\.bin: the folder {tmp_path} is read-only"):
        check_writable(tmp_path / "b.bin")


def test_what_has_no_end_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(files, "LIMIT", 2**25)
    with (
        open("/dev/zero", "rb") as file,
        pytest.raises(OSError, match="more than 32 MiB") as caught,
    ):
        files.read(file, "zero")
    assert caught.value.filename == "zero"
    assert files.read(io.BytesIO(b"ab"), "ab") == b"ab"
