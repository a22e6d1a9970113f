"""Claims: recorded by notebooks, judged against their targets."""

import json

import pandas as pd
import pytest

from dyndl_lite import files
from dyndl_lite.cli import claims, main
from dyndl_lite.files import UserError


def claim(name, target, profiles=("laptop", "paper")):
    return {"id": name, "source": "Nature, Fig. 1", "notebook": "01_alpha", "statement": "it is so",
            "profiles": list(profiles), "target": target}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout with three claims."""
    write(tmp_path, [claim("loss", [0.5, 0.8]), claim("dead", [8, None]),
                     claim("gap", [None, 0.1])])
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(files, "ABOVE", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(root, content):
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / "claims.json").write_text(json.dumps(content))


def judged(root):
    return {(r["id"], r["profile"]): r["status"] for r in claims.judge(root / "build")}


def test_a_value_is_judged_at_the_profiles_of_its_claim_only(root):
    out = root / "build" / "01_alpha"
    claims.record(out, "loss", 0.8, "laptop")
    claims.record(out, "dead", 7.9, "laptop")
    claims.record(out, "gap", 0.0, "smoke")
    assert judged(root) == {
        ("loss", "laptop"): "reproduced", ("loss", "paper"): "not run",
        ("dead", "laptop"): "not reproduced", ("dead", "paper"): "not run",
        ("gap", "laptop"): "not run", ("gap", "paper"): "not run"}


def test_recording_again_replaces_the_value_at_that_profile(root):
    out = root / "build" / "01_alpha"
    claims.record(out, "loss", 3.0, "laptop")
    claims.record(out, "loss", 0.7, "paper")
    claims.record(out, "loss", 0.6, "laptop")
    table = pd.read_csv(out / "claims.csv").set_index("profile")["value"]
    assert dict(table) == {"laptop": 0.6, "paper": 0.7}


def test_an_unknown_claim_is_refused_with_the_near_miss(root):
    with pytest.raises(UserError, match="did you mean loss"):
        claims.record(root / "build" / "x", "los", 1.0, "laptop")
    assert not (root / "build").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_reproduces_nothing(root, value):
    for name in ["loss", "dead", "gap"]:
        claims.record(root / "build" / "01_alpha", name, value, "laptop")
    assert {judged(root)[name, "laptop"] for name in ["loss", "dead", "gap"]} == {"not reproduced"}


@pytest.mark.parametrize("value, low, high, answer", [
    (0.5, 0.5, 0.8, "reproduced"), (0.81, 0.5, 0.8, "not reproduced"),
    (0.49, 0.5, 0.8, "not reproduced"), (-1e9, None, 0.1, "reproduced"),
    (0.11, None, 0.1, "not reproduced"), (None, 0, 1, "not run")])
def test_status(value, low, high, answer):
    assert claims.status(value, low, high) == answer


def test_json_has_a_row_for_each_profile_and_recorded_runs_count(root, capsys):
    (root / "data" / "results").mkdir()
    (root / "data" / "results" / "claims.csv").write_text(
        "id,profile,value,source\nloss,paper,0.62,long run\n")
    assert main.main(["claims", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[1] == {"id": "loss", "source": "Nature, Fig. 1", "notebook": "01_alpha",
                       "profile": "paper", "value": 0.62, "target": "0.5 .. 0.8",
                       "status": "reproduced"}
    assert [row["target"] for row in rows[2::2]] == [">= 8", "<= 0.1"]
    assert rows[0]["value"] is None and rows[0]["status"] == "not run"
    assert main.main(["claims"]) == 0
    assert "0.5 .. 0.8" in capsys.readouterr().out


def test_a_failing_claim_exits_1_and_its_nan_is_valid_json(root, capsys):
    claims.record(root / "build" / "01_alpha", "loss", float("nan"), "laptop")
    assert main.main(["claims", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert rows[0]["value"] == "nan" and rows[0]["status"] == "not reproduced"


MALFORMED = {
    "no list": {"id": "a"},
    "a missing key": [{"id": "a"}],
    "no profile": [claim("a", [0, 1], [])],
    "open at both ends": [claim("a", [None, None])],
    "ends exchanged": [claim("a", [2, 1])],
    "text for a number": [claim("a", ["0", 1])],
    "the same id twice": [claim("a", [0, 1]), claim("a", [0, 1])],
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_exits_2_with_one_line(root, capsys, content):
    write(root, content)
    assert main.main(["claims"]) == 2
    error = capsys.readouterr().err
    assert "claims.json" in error and error.count("\n") == 1


@pytest.mark.parametrize("text", ["{", None])
def test_an_unreadable_file_exits_2(root, capsys, text):
    path = root / "data" / "claims.json"
    path.write_text(text) if text else path.unlink()
    assert main.main(["claims"]) == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize("text, reason", [
    ("id,value\nloss,1\n", "columns id, profile, value"),
    ("id,profile,value\nloss,laptop,much\n", "columns id, profile, value"),
    ("id,profile,value\nlost,laptop,1\n", "no claim 'lost'")])
def test_malformed_values_exit_2(root, capsys, text, reason):
    path = root / "build" / "01_alpha" / "claims.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert main.main(["claims"]) == 2
    error = capsys.readouterr().err
    assert reason in error and str(path.name) in error and error.count("\n") == 1
