"""Save a run so that a killed one goes on where it was, and refuse one that is not its own."""

import hashlib
import io
from pathlib import Path

import torch

from dyndl_lite.files import atomic

# Read at import: what runs, even if a file is edited meanwhile.
_CODE = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.parent.rglob("*.py")))


def fingerprint(*facts) -> str:
    """Digest all that a trajectory depends on: the facts given, torch, and the library's code."""
    facts = repr((facts, torch.__version__)).encode()
    return hashlib.sha256(facts + _CODE).hexdigest()[:16]


def save(path: Path, state: dict) -> None:
    """Write a dict of tensors and numbers; the file is replaced whole or not at all."""
    whole = io.BytesIO()  # torch's own writer would hide a full disk in a RuntimeError
    torch.save(state, whole)
    with atomic(path) as temporary:
        temporary.write_bytes(whole.getbuffer())


def load(path: Path, mark: str, device: torch.device) -> dict | None:
    """Read a checkpoint back, or None if there is none or it belongs to another run.

    Raises
    ------
    ValueError
        If the file is there but cannot be read.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["fingerprint"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"checkpoint {path} cannot be read ({type(error).__name__}): delete it "
                         "to start this run afresh") from error
    if found != mark:
        print(f"[dyndl_lite] checkpoint {path} is of other settings or other code: starting "
              "afresh", flush=True)
        return None
    return state
