"""Save a run so that a killed one goes on where it was, and refuse one that is not its own."""

import io
from pathlib import Path

import torch

from dyndl_lite.files import atomic


def save(path: Path, state: dict) -> None:
    """Write a dict of tensors and numbers; the file is replaced whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(_whole(state).getbuffer())


def _whole(state: dict) -> io.BytesIO:
    whole = io.BytesIO()  # torch's own writer would hide a full disk in a RuntimeError
    torch.save(state, whole)
    whole.seek(0)
    return whole


def check(state: dict, name: str) -> None:
    """Raise ValueError if a state could not be read back from a file."""
    try:
        torch.load(_whole(state), weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        raise ValueError(f"{name!r} cannot be kept in a checkpoint ({str(error).splitlines()[0]}): "
                         "let it hold dicts, lists, tensors and numbers, or give no folder") from error


def load(path: Path, mark: str, ends: list[int], device: torch.device) -> dict | None:
    """Read a checkpoint back, or None if there is none or it belongs to another run.

    A run is known by its fingerprint and the ends of its bins; one with fewer is its beginning.
    ValueError if the file is there but cannot be read.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        own = (state["fingerprint"] == mark and state["t"] <= ends[-1]
               and state["ends"] == ends[:len(state["ends"])])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"checkpoint {path} cannot be read ({type(error).__name__}): delete it "
                         "to start this run afresh") from error
    if not own:
        print(f"[dyndl_lite] checkpoint {path} is of other settings or other code: starting afresh",
              flush=True)
    return state if own else None
