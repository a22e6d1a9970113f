"""Files that are either whole or not there, the paths to them, and errors that are one line."""

from __future__ import annotations

import csv
import difflib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

REMEDIES = {
    **dict.fromkeys([errno.ENOSPC, errno.EDQUOT], "free some space and run it again"),
    **dict.fromkeys([errno.EACCES, errno.EPERM, errno.EROFS],
                    "choose a folder that you may write to"),
}
ABOVE = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """What was asked cannot be done; the message is one line: what, where and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the near misses, else all the names."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there is {', '.join(known)}"


def sha256(path: Path) -> str:
    """Give the checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def absolute(path: str | os.PathLike) -> Path:
    """A path as the user's shell means it: `~` is the home, and the rest begins here."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def checkout() -> Path:
    """The folder of the package and of `notebooks/` and `data/`; UserError if it lacks them."""
    if not all((ABOVE / name).exists() for name in ["pyproject.toml", "notebooks", "data"]):
        raise UserError(f"the dyndl_lite in {ABOVE} came without its notebooks and data; get the "
                        "repository and call `pip install -e .` in it")
    return ABOVE


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file whole or not at all; its folder is made if it is missing.

    Write to the path that this gives, a temporary name in the same folder with the same suffix: on
    leaving the block the file is flushed to the disk and takes its name in one step. If the block
    raises, the temporary file is removed and an earlier `path` stays as it was. Where it cannot be
    written the OSError names it, and says in one line why and what to do.
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


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text by column; none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def put_row(path: Path, row: dict[str, Any], keys: list[str]) -> None:
    """Write a row into a CSV file, in the place of one with the same values of `keys`."""
    row = {name: str(value) for name, value in row.items()}
    rows = [old for old in read_rows(path)
            if set(old) == set(row) and any(old[key] != row[key] for key in keys)] + [row]
    with atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda each: [each[key] for key in keys]))
