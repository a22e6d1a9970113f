"""Compiled loops on the user's disk, so that a loop is compiled once and not once a process.

A loop is a shared library, ``loops/<key>.<its SHA-256>.so``, in a folder that only the user may
write to. Nothing is loaded from a folder that others may write to, and no file whose content
is not the one that was written.
"""

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from dyndl_lite.files import atomic, sha256

# Above this the files that were not used for longest go.
MOST_BYTES = 2 * 2**30


@cache
def notice(text: str) -> None:
    """Say something once in the life of the process."""
    print(f"[dyndl_lite] {text}", flush=True)


def folder() -> Path | None:
    """Give the cache's folder, made if it is missing; None if there is none to be had.

    It is ``dyndl_lite`` in XDG_CACHE_HOME or ~/.cache. The environment variable DYNDL_CACHE
    names another, or, empty or "off", switches the cache off.
    """
    asked = os.environ.get("DYNDL_CACHE")
    if asked is not None and asked.strip().lower() in ("", "off"):
        return None
    try:
        home = os.environ.get("XDG_CACHE_HOME", "")
        home = Path(home) if os.path.isabs(home) else Path("~/.cache").expanduser()
        path = Path(asked).expanduser().absolute() if asked else home / "dyndl_lite"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = path.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        return _without(f"{getattr(error, 'strerror', None) or error}: {asked or 'its folder'}")
    if hasattr(os, "getuid") and about.st_uid != os.getuid():
        return _without(f"{path} belongs to another user")
    if os.name == "posix" and about.st_mode & 0o022:
        return _without(f"others may write to {path} (chmod go-w makes it yours)")
    return path


def _without(reason: str) -> None:
    notice(f"compiled loops are not kept: {reason}; DYNDL_CACHE names another folder")


def load(key: str) -> Callable | None:
    """Give the loop of that key, a function of a list of tensors; None if it is not there."""
    home = folder()
    for path in sorted(home.glob(f"loops/{key}.*.so")) if home else []:
        try:
            if sha256(path) != path.name.split(".")[1]:
                raise OSError("its content is not what was written")
            loop = _opened(path)
            with suppress(OSError):
                os.utime(path)  # it was used now
            return loop
        except (OSError, RuntimeError) as error:
            notice(f"a compiled loop is damaged and compiled again ({path}: "
                   f"{str(error).splitlines()[0]})")
            with suppress(OSError):
                path.unlink()
    return None


def store(key: str, library: Path) -> Callable:
    """Keep a shared library under that key if that can be; give its loop either way."""
    home = folder()
    if home:
        try:
            with atomic(home / "loops" / f"{key}.{sha256(library)}.so") as part:
                shutil.copyfile(library, part)
            _trim(home)
        except OSError as error:
            _without(error.strerror or str(error))
    return _opened(library)


def _opened(path: Path) -> Callable:
    """Load a library; the file may go afterwards."""
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1).run


def _files(home: Path | None) -> list[tuple[float, int, Path]]:
    """List (time of last use, bytes, path) of all files, the oldest first."""
    found = []
    for path in home.rglob("*") if home else []:
        with suppress(OSError):  # another process may clear at the same time
            if path.is_file() and not path.is_symlink():
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    return sorted(found)


def _trim(home: Path) -> None:
    """Remove what was not used for longest until the bound is kept."""
    files = _files(home)
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= MOST_BYTES:
            return
        with suppress(OSError):
            path.unlink()
            total -= size


def show() -> str:
    """Say where the cache is and what it holds."""
    home = folder()
    if home is None:
        return "compiled loops are not kept (see DYNDL_CACHE)"
    files = _files(home)
    loops = sum(path.parent.name == "loops" for *_, path in files)
    return f"{home}: {loops} compiled loops, {sum(size for _, size, _ in files) / 1e6:.0f} MB"


def clear() -> str:
    """Remove all that the cache holds; say what that was."""
    before, home = show(), folder()
    for name in ("loops", "torch", "bin") if home else ():
        shutil.rmtree(home / name, ignore_errors=True)
    return f"{before}; removed" if home else before


@contextmanager
def workshop() -> Iterator[Path]:
    """Give an empty folder to compile in; torch's own files go to the cache as long as it lasts.

    Torch's command lines break at a space: a folder whose path has one is reached through a link.
    """
    home, before = folder(), os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    plain = next((path for path in (tempfile.gettempdir(), "/tmp", "/var/tmp")
                  if " " not in path and os.access(path, os.W_OK)), None)  # None: the system's
    with tempfile.TemporaryDirectory(prefix="dyndl_lite_", dir=plain) as place:
        place = Path(place)
        (place / "loop").mkdir()
        theirs = Path(before) if before else home / "torch" if home else place / "torch"
        try:
            theirs.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=theirs).close()  # may it be written to?
        except OSError as error:
            notice(f"torch cannot write to {theirs} ({error.strerror}) and compiles all anew")
            theirs = place / "torch"
        if " " in str(theirs):
            (place / "link").symlink_to(theirs.absolute(), target_is_directory=True)
            theirs = place / "link"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(theirs)
        usual, tempfile.tempdir = tempfile.tempdir, plain
        if " " in usual:  # torch has looked where headers go when it was imported
            codecache = importlib.import_module("torch._inductor.codecache")
            codecache._HEADER_DIR = str(theirs / "precompiled_headers")
            codecache._HEADER_LOCK_DIR = str(theirs / "precompiled_headers/locks")
        try:
            yield place / "loop"
        finally:
            tempfile.tempdir = usual
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
