"""What a result was made with: written below every notebook and beside every table."""

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import torch

import dyndl_lite
from dyndl_lite import files


def facts(**parameters) -> dict:
    """Collect versions, machine, commit and parameters."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"dyndl_lite": dyndl_lite.__version__, "commit": commit(),
            "python": platform.python_version(), "torch": torch.__version__,
            "device": device, "cores": os.cpu_count(),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), **parameters}


def footer(**parameters) -> None:
    """Print the facts, one a line: the last cell of a notebook."""
    for name, value in facts(**parameters).items():
        print(f"{name:12} {value}")


def save_table(frame: pd.DataFrame, out: str | Path, name: str) -> None:
    """Write a result as OUT/name.csv, whole or not at all."""
    with files.atomic(Path(out) / f"{name}.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g")


def keep(table: Path, name: str, part: dict, rows: pd.DataFrame, **made) -> None:
    """Put the rows of one part of a recorded table, a CSV file, in the place of its old ones.

    `part` holds the columns and values by which its rows are known. What made them (the command,
    the seconds, the data) is noted under the part's name in the JSON file beside the table.
    """
    if table.exists():
        old = pd.read_csv(table)
        mine = (old[list(part)] == list(part.values())).all(axis=1)
        rows = pd.concat([old[~mine], rows])
    rows = rows.sort_values(list(part), kind="stable")
    with files.atomic(table) as path:
        rows.to_csv(path, index=False, float_format="%.5g")
    beside = table.with_suffix(".json")
    known = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
    known[name] = {**made, "commit": commit(), "torch": torch.__version__,
                   "processor": platform.machine()}
    with files.atomic(beside) as path:
        path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")


def commit() -> str:
    """The commit of the checkout, marked if files differ from it (other than recorded results).

    "unknown" without a checkout or git, or where the files lie inside another repository.
    """
    # GIT_DIR and its like, as git's hooks set them, would name another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=files.checkout(), env=clean, timeout=5,
                              capture_output=True, text=True, encoding="utf-8", errors="replace",
                              check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != files.checkout():
            return "unknown"
        differing = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!data/results")
        return git("describe", "--always") + ("-dirty" if differing else "")
    except (OSError, subprocess.SubprocessError, files.UserError):
        return "unknown"
