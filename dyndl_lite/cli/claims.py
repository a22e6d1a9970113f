"""What the papers claim, what we measured, and whether the two agree.

`data/claims.json` lists the claims. A notebook records what it measured with `record`;
`data/results/claims.csv` holds what long runs measured, with where they are told of.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from dyndl_lite.cli.notebooks import nearest
from dyndl_lite.files import atomic, UserError

DATA = Path(__file__).resolve().parent.parent.parent / "data"
KEYS = ["id", "source", "notebook", "statement", "profiles", "target"]


def load(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """The claims by id, checked.

    Parameters
    ----------
    path : Path, optional
        Another file than `data/claims.json`.

    Raises
    ------
    UserError
        If the file is missing or malformed.
    """
    path = path or DATA / "claims.json"
    try:
        claims = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it from the repository")
    if not isinstance(claims, list):
        raise UserError(f"{path} must be a list of claims")
    for number, claim in enumerate(claims):
        fault = fault_of(claim)
        if fault:
            name = claim.get("id", number) if isinstance(claim, dict) else number
            raise UserError(f"{path}: claim {name}: {fault}")
    by_id = {claim["id"]: claim for claim in claims}
    if len(by_id) < len(claims):
        raise UserError(f"{path}: two claims have the same id; ids must differ")
    return by_id


def fault_of(claim: Any) -> str:
    """What is wrong with a claim, or nothing."""
    if not isinstance(claim, dict) or set(claim) != set(KEYS):
        return f"must have exactly the keys {', '.join(KEYS)}"
    texts = [claim[key] for key in ["id", "source", "notebook", "statement"]]
    profiles, target = claim["profiles"], claim["target"]
    if not all(isinstance(text, str) and text for text in texts):
        return "id, source, notebook and statement must be text"
    if not isinstance(profiles, list) or not profiles or not all(
            isinstance(name, str) for name in profiles):
        return "profiles must be a list of at least one name"
    if not isinstance(target, list) or len(target) != 2 or not all(
            end is None or type(end) in (int, float) and math.isfinite(end) for end in target):
        return "target must be [low, high], numbers, null for an open end"
    low, high = target
    if low is None and high is None:
        return "target is open at both ends, so the claim could not fail"
    if low is not None and high is not None and low > high:
        return "target's low end is above its high end"
    return ""


def record(out: str | Path, claim_id: str, value: float, profile: str) -> None:
    """Note what a notebook measured for a claim, in `claims.csv` in the notebook's folder.

    Parameters
    ----------
    out : path
        The notebook's `out`.
    claim_id : str
        An id of `data/claims.json`.
    value : float
        What was measured; NaN counts as not reproduced.
    profile : str
        The notebook's `profile`. An earlier value at the same profile is replaced.

    Raises
    ------
    UserError
        If there is no such claim.
    """
    known = load()
    if claim_id not in known:
        raise UserError(f"no claim {claim_id!r} in data/claims.json{nearest(claim_id, known)}")
    path = Path(out) / "claims.csv"
    table = pd.DataFrame([{"id": claim_id, "profile": profile, "value": float(value)}])
    if path.exists():
        table = pd.concat([read_values(path, known), table])
    table = table.drop_duplicates(["id", "profile"], keep="last")
    with atomic(path) as part:
        table[["id", "profile", "value"]].to_csv(part, index=False, na_rep="nan")


def read_values(path: Path, known: dict[str, Any]) -> pd.DataFrame:
    """A table of measured values: id, profile, value."""
    try:
        table = pd.read_csv(path, dtype={"id": str, "profile": str})
        table = table.assign(value=table["value"].astype(float))[["id", "profile", "value"]]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {path}: {error}; it needs the columns id, profile, value")
    for name in table["id"]:
        if name not in known:
            raise UserError(f"{path}: no claim {name!r} in data/claims.json; run its notebook "
                            "again, or remove the line")
    return table


def judge(build: Path, data: Path | None = None) -> list[dict[str, Any]]:
    """Set every claim against what was measured.

    Parameters
    ----------
    build : Path
        Where notebooks were run; their values are in `build/*/claims.csv`.
    data : Path, optional
        Another folder than the project's `data/`.

    Returns
    -------
    list of dict
        id, source, notebook, statement, profile, value (None if not run), target, status
        (`reproduced`, `not reproduced`, `not run`): a row for each profile at which the claim is
        made, and more than one where it was measured both now and in a recorded run.
    """
    data = data or DATA
    known = load(data / "claims.json")
    paths = [*sorted(build.glob("*/claims.csv")), *(data / "results").glob("claims.csv")]
    values = [(row.id, row.profile, row.value)
              for path in paths for row in read_values(path, known).itertuples()]
    rows = []
    for claim in known.values():
        for profile in claim["profiles"]:
            measured = [v for name, at, v in values if (name, at) == (claim["id"], profile)]
            for value in measured or [None]:
                rows.append({key: claim[key] for key in KEYS[:4]}
                            | {"profile": profile, "value": value,
                               "target": describe(*claim["target"]),
                               "status": status(value, *claim["target"])})
    return rows


def status(value: float | None, low: float | None, high: float | None) -> str:
    """Does a value lie within the target? NaN lies in none."""
    if value is None:
        return "not run"
    within = (math.isfinite(value) and (low is None or value >= low)
              and (high is None or value <= high))
    return "reproduced" if within else "not reproduced"


def describe(low: float | None, high: float | None) -> str:
    """A target in words: `0.5 .. 0.8`, `<= 0.1` or `>= 8`."""
    if low is None:
        return f"<= {high:g}"
    return f">= {low:g}" if high is None else f"{low:g} .. {high:g}"
