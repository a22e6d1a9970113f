"""Recorded tables, a part of which takes the place of its old rows, and the commit they are of."""

import json
import subprocess

import pandas as pd

from dyndl_lite import files
from dyndl_lite.experiment import provenance


def rows(learner, *values):
    return pd.DataFrame({"problem": "scr", "learner": learner, "value": values})


def test_a_part_takes_the_place_of_its_old_rows_and_of_no_others(tmp_path):
    table = tmp_path / "results.csv"
    for learner, values in [("cbp", (1.0, 2.0)), ("bp", (3.0,)), ("cbp", (4.0,))]:
        provenance.keep(table, f"scr/{learner}", {"problem": "scr", "learner": learner},
                        rows(learner, *values), command=f"record {learner}", seconds=len(values))
    found = pd.read_csv(table)
    assert found.learner.tolist() == ["bp", "cbp"] and found.value.tolist() == [3, 4]
    made = json.loads((tmp_path / "results.json").read_text())
    assert set(made) == {"scr/bp", "scr/cbp"}
    assert made["scr/cbp"]["command"] == "record cbp" and made["scr/cbp"]["seconds"] == 1
    assert {"torch", "commit"} <= set(made["scr/cbp"])


def repository(folder):
    """A git repository with one commit, shaped as a checkout of ours; its commit."""
    for name in ["notebooks", "data"]:
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    for words in [["init", "-q"], ["add", "."],
                  ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]]:
        subprocess.run(["git", *words], cwd=folder, check=True)
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, check=True,
                          capture_output=True, text=True).stdout.strip()


def test_the_commit_is_the_checkout_s_own_or_unknown(tmp_path, monkeypatch):
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"]:
        monkeypatch.delenv(name, raising=False)
    ours, other = tmp_path / "ours", tmp_path / "other"
    commit = repository(ours)
    repository(other)
    monkeypatch.setattr(files, "ABOVE", ours)
    assert provenance.commit() == commit
    table = ours / "data/results/table.csv"  # what a recorder itself writes does not change the code
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("a")
    subprocess.run(["git", "add", "."], cwd=ours, check=True)
    assert provenance.commit() == commit
    (ours / "pyproject.toml").write_text("changed")
    assert provenance.commit() == f"{commit}-dirty"
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # as within a hook of another repository
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert provenance.facts()["commit"] == f"{commit}-dirty"

    inside = other / "third_party"  # a copy of our files in somebody's repository
    for name in ["notebooks", "data", "pyproject.toml"]:
        (inside / name).mkdir(parents=True)
    monkeypatch.setattr(files, "ABOVE", inside)
    assert provenance.commit() == "unknown"
    monkeypatch.setattr(files, "ABOVE", tmp_path / "site-packages")
    assert provenance.commit() == "unknown"
    monkeypatch.setattr(files, "ABOVE", ours)
    monkeypatch.setenv("PATH", "")  # no git
    assert provenance.commit() == "unknown"
