"""What a result was made with: written below every notebook and beside every table."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import torch

import dyndl_lite
from dyndl_lite.files import atomic


def facts(**parameters) -> dict:
    """Collect versions, machine, commit and parameters."""
    return {
        "dyndl_lite": dyndl_lite.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        **parameters,
    }


def footer(**parameters) -> None:
    """Print the facts, one a line: the last cell of a notebook."""
    for name, value in facts(**parameters).items():
        print(f"{name:12} {value}")


def save_table(frame: pd.DataFrame, out: str | Path, name: str) -> None:
    """Write a result as OUT/name.csv, whole or not at all."""
    with atomic(Path(out) / f"{name}.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g")


def _commit() -> str:
    """Name the commit of the checkout, marked if files differ from it; "unknown" outside one."""
    here = Path(__file__).resolve().parent
    try:
        run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, timeout=5,
                             capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return run.stdout.strip()
