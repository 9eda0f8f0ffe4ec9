"""Files that are read within a limit, and written whole or not at all."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

LIMIT = 2**30
"""Most bytes that are read of one input: more than any picture within `images.MAX_PIXELS` takes."""


def read(file: IO[bytes], name: str | os.PathLike) -> bytes:
    """All of an open file, pipe or device; OSError with ``name`` beyond `LIMIT` bytes."""
    parts, size = [], 0
    while part := file.read(2**24):
        parts.append(part)
        size += len(part)
        if size > LIMIT:
            wrong = f"has more than {LIMIT // 2**20} MiB, the limit of an input"
            raise OSError(errno.EFBIG, wrong, str(name))
    return b"".join(parts)


def check_writable(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Raise the OSError that `atomic_write` would raise for this target, if any."""
    path = Path(path)
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: is a device or pipe, not a file to replace")
    if path.exists() and not overwrite:
        raise _kept(path)
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path}: is read-only and is kept")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path}: the folder {folder} is read-only")


def _kept(path: Path) -> FileExistsError:
    return FileExistsError(f"{path}: exists and is kept; to replace it: --force, overwrite=True")


def atomic_write(
    path: str | os.PathLike, data: bytes | memoryview, overwrite: bool = False
) -> None:
    """Write ``data`` to a temporary file beside ``path``, then rename it. A link stays, and what it
    points to is written. FileExistsError when ``path`` exists and ``overwrite`` is False, even if
    it came a moment ago; other OSErrors when file or folder are missing or not writable."""
    path = Path(path)
    check_writable(path, overwrite)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # not tempfile: the result keeps the usual permissions
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        if not overwrite:  # take the name, which only one of several processes can
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                open(target, "xb").close()
        os.replace(temporary, target)
    except FileExistsError:
        raise _kept(path) from None
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: str | os.PathLike) -> Iterator[None]:
    """Meanwhile no other process may have ``path``, a file or a folder that need not exist yet;
    OSError where another has it already. May leave an empty ``.NAME.lock`` beside it."""
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        held = lock.acquire()
    except Timeout:
        raise OSError(f"{path}: another process is writing there: let it end first") from None
    with held:
        yield
