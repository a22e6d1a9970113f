"""What the papers claim, what we measured, and whether the two agree.

`data/claims.json` lists the claims. A notebook records what it measured with `record`;
`data/results/claims.csv` holds what long runs measured, with where they are told of.
"""

import json
import math
from pathlib import Path
from typing import Any

from dyndl_lite.files import checkout, nearest, put_row, read_rows, UserError

TEXTS = ["id", "source", "notebook", "statement"]


def load() -> dict[str, dict[str, Any]]:
    """The claims of `data/claims.json` by id; UserError if it is missing or malformed."""
    path = checkout() / "data" / "claims.json"
    try:
        claims = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it from the repository")
    if not isinstance(claims, list):
        raise UserError(f"{path} must be a list of claims")
    by_id = {}
    for number, claim in enumerate(claims):
        fault = fault_of(claim) or claim["id"] in by_id and "another claim has the same id"
        if fault:
            name = claim.get("id", number) if isinstance(claim, dict) else number
            raise UserError(f"{path}: claim {name}: {fault}")
        by_id[claim["id"]] = claim
    return by_id


def fault_of(claim: Any) -> str:
    """What is wrong with a claim, or nothing."""
    if not isinstance(claim, dict) or set(claim) != {*TEXTS, "profiles", "target"}:
        return f"must have exactly the keys {', '.join(TEXTS)}, profiles, target"
    profiles, target = claim["profiles"], claim["target"]
    if not isinstance(profiles, list) or not profiles:
        return "profiles must be a list of at least one name"
    if not all(isinstance(t, str) and t for t in [*profiles, *(claim[key] for key in TEXTS)]):
        return "id, source, notebook, statement and each profile must be text"
    if not isinstance(target, list) or len(target) != 2 or not all(
            end is None or type(end) in (int, float) and math.isfinite(end) for end in target):
        return "target must be [low, high], numbers, null for an open end"
    ends = [end for end in target if end is not None]
    if not ends or ends != sorted(ends):
        return "target is open at both ends or has its low end above its high end"
    return ""


def record(out: str | Path, claim_id: str, value: float, profile: str) -> None:
    """Note what a notebook measured for a claim, in `claims.csv` in the notebook's folder.

    Without a checkout there are no claims: then one printed line says so.

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
    try:
        checkout()
    except UserError as error:
        print(f"[dyndl_lite] {claim_id} = {value:g} is not recorded: {error}")
        return
    known = load()
    if claim_id not in known:
        raise UserError(f"no claim {claim_id!r} in data/claims.json{nearest(claim_id, known)}")
    path = Path(out) / "claims.csv"
    read_values(path, known)  # complains of a malformed file before it is replaced
    put_row(path, {"id": claim_id, "profile": profile, "value": float(value)}, ["id", "profile"])


def read_values(path: Path, known: dict[str, Any]) -> list[tuple[str, str, float]]:
    """What was measured: id, profile, value."""
    try:
        values = [(row["id"], row["profile"], float(row["value"])) for row in read_rows(path)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}; it needs the columns id, profile, value")
    for name, _, _ in values:
        if name not in known:
            raise UserError(f"{path}: no claim {name!r} in data/claims.json; run its notebook "
                            "again, or remove the line")
    return values


def judge(build: Path) -> list[dict[str, Any]]:
    """Set every claim against what was measured, in `build/*/claims.csv` and in recorded runs.

    Returns
    -------
    list of dict
        id, source, notebook, profile, value (None if not run), target, status: a row for each
        profile at which the claim is made, and more where it was measured more than once.
    """
    known, measured = load(), {}
    for path in [*sorted(build.glob("*/claims.csv")), checkout() / "data/results/claims.csv"]:
        for name, profile, value in read_values(path, known):
            measured.setdefault((name, profile), []).append(value)
    return [{"id": claim["id"], "source": claim["source"], "notebook": claim["notebook"],
             "profile": profile, "value": value, "target": describe(*claim["target"]),
             "status": status(value, *claim["target"])}
            for claim in known.values() for profile in claim["profiles"]
            for value in measured.get((claim["id"], profile), [None])]


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
