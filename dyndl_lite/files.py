"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

REMEDIES = {
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
}


class UserError(Exception):
    """What was asked cannot be done; the message is one line: what, where and what to do."""


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file whole or not at all.

    Parameters
    ----------
    path : path
        The file to write. Its folder is made if it is missing.

    Yields
    ------
    Path
        A temporary name in the same folder, with the same suffix. Write there; on leaving the
        block the file is flushed to the disk and takes its name in one step. If the block
        raises, the temporary file is removed and an earlier `path` stays as it was.

    Raises
    ------
    OSError
        Where the file cannot be written: one line that names it, says why and what to do.

    Examples
    --------
    >>> with atomic("build/table.csv") as part:         # doctest: +SKIP
    ...     table.to_csv(part, index=False)
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_orphans(path)
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    except OSError as error:
        ours = {str(name) for name in [part, path, *path.parents]}
        if error.filename and str(error.filename) not in ours:
            raise  # the block failed over another file, of which the error speaks already
        remedy = REMEDIES.get(error.errno, "see that the folder exists and can be written to")
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write {path}: {reason}; {remedy}") from error
    finally:
        with suppress(OSError):  # where nothing can be written nothing can be left
            part.unlink()


def remove_orphans(path: Path) -> None:
    """Remove what a killed process left behind while it was writing this file."""
    for part in path.parent.glob(f".{path.stem}.*.part{path.suffix}"):
        pid = part.name.removeprefix(f".{path.stem}.").split(".")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            part.unlink(missing_ok=True)
