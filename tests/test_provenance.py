"""Recorded tables: a part takes the place of its old rows, and of no others."""

import json

import pandas as pd

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
