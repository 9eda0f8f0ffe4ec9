"""Files that are written whole or not at all."""

import os
import secrets
from pathlib import Path


def check_writable(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Raise the OSError that `atomic_write` would raise for this target, if any."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: is a device or pipe, not a file to replace")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists and is kept; overwrite it only on request (--force)")


def atomic_write(
    path: str | os.PathLike, data: bytes | memoryview, overwrite: bool = False
) -> None:
    """Write ``data`` to a temporary file beside ``path``, then rename it. FileExistsError when
    ``path`` exists and ``overwrite`` is False, other OSErrors when the folder is missing or not
    writable."""
    path = Path(path)
    check_writable(path, overwrite)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # not tempfile: the result keeps the usual permissions
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
