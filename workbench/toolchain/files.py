"""Files that are written whole: the old content or the new one, whatever happens meanwhile."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace a file's content; a text becomes UTF-8.

    The new content is written beside the file, which is then replaced. What cannot be replaced, a
    pipe, a device or a file in a folder that is read-only, is written to. Raises OSError.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    target = path.resolve()  # of a link
    beside = target.with_name(f".{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            if target.exists():
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except PermissionError:
        target.write_bytes(data)
    finally:
        beside.unlink(missing_ok=True)
