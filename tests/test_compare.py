"""Comparisons, figures and provenance: the numbers and texts that notebooks rest on."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dyndl_lite.experiment import compare, plots, provenance


@pytest.fixture
def frame():
    """Two learners, four seeds, ten bins: a tidy result whose numbers are known."""
    rows = [{"learner": name, "seed": seed, "step": 10 * (t + 1),
             "squared_error": t + seed + 5.0 * (name == "b")}
            for name in "ab" for seed in range(4) for t in range(10)]
    return pd.DataFrame(rows)


def test_a_window_averages_the_named_part_of_every_run(frame):
    first = compare.window_mean(frame, "squared_error", ["learner"], 0, 0.2)
    assert first["a", 0] == 0.5 and first["b", 3] == 8.5
    last = compare.window_mean(frame, "squared_error", ["learner"], 0.9, 1)
    assert last["a", 0] == 9
    thirds = compare.window_mean(frame, "squared_error", ["learner"], 0, 0.3)
    assert thirds["a", 0] == 1  # 0.3 x 100 is no exact float: the third bin belongs to it


def test_interval_is_students(frame):
    values = np.array([1.0, 2.0, 4.0, 7.0])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert compare.interval(values) == pytest.approx((3.5, expected.low, expected.high))
    assert np.isnan(compare.interval([1.0])[1])


def test_paired_difference_matches_by_seed_not_by_position():
    a = pd.Series([1.0, 2.0, 3.0], index=pd.Index([0, 1, 2], name="seed"))
    b = pd.Series([2.5, 1.5, 0.5], index=pd.Index([2, 1, 0], name="seed"))
    mean, low, high = compare.paired(a, b)
    assert (mean, low, high) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="no seed is in both"):
        compare.paired(a, b.set_axis([7, 8, 9]))


def test_table_has_a_row_for_each_setting(frame):
    late = compare.window_mean(frame, "squared_error", ["learner"], 0.9, 1)
    table = compare.table(late, "late")
    assert list(table.index) == ["a", "b"] and list(table.runs) == [4, 4]
    assert table.loc["b", "late"] == pytest.approx(9 + 1.5 + 5)
    by_two = compare.table(frame.groupby(["learner", "step", "seed"]).squared_error.mean())
    assert by_two.index.names == ["learner", "step"]


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_run_that_diverged_is_shown_as_missing(frame, lost):
    frame.loc[(frame.learner == "b") & (frame.seed == 2) & (frame.step > 50), "squared_error"] = lost
    late = compare.window_mean(frame, "squared_error", ["learner"], 0.4, 1)
    assert np.isnan(late["b", 2]) and late["b", 3] == 14.5
    table = compare.table(late, "late")
    assert table.runs.to_dict() == {"a": 4, "b": "3 of 4"} and table.late.isna().tolist() == [False, True]
    assert np.isnan(compare.paired(late["b"], late["a"])).all()
    ax = plots.curves(frame, "squared_error", "learner")
    a, b = ax.get_lines()
    assert (a.get_label(), b.get_label()) == ("a", "b (3 of 4 runs)")
    assert np.isfinite(a.get_ydata()).all()
    assert np.isfinite(b.get_ydata()).tolist() == [True] * 5 + [False] * 5
    plt.close()


def test_a_setting_with_a_missing_run_is_never_the_best():
    index = pd.MultiIndex.from_product([["a", "b", "c"], [0, 1]], names=["setting", "seed"])
    series = pd.Series([3.0, 5.0, 3.5, 3.5, np.nan, 1.0], index)
    assert compare.means(series).idxmin() == "b" and np.isnan(compare.means(series)["c"])
    assert compare.ranked(series) == ["b", "a", "c"]
    assert compare.ranked(series, larger=True) == ["a", "b", "c"]
    assert compare.ranked(series.rename_axis(["value", "seed"])) == ["b", "a", "c"]


def test_returns_are_means_over_episodes_not_over_bins():
    frame = pd.DataFrame({"learner": "it", "seed": 0, "step": [10, 20, 30],
                          "return": [1.0, np.nan, 4.0], "episodes": [9, 0, 1]})
    assert compare.window_mean(frame, "return", ["learner"], 0, 1, "episodes").item() == 1.3
    assert np.isnan(compare.window_mean(frame, "return", ["learner"], 0, 1).item())
    frame["return"] = [1.0, np.nan, np.nan]  # one that ended without a value: diverged
    assert np.isnan(compare.window_mean(frame, "return", ["learner"], 0, 1, "episodes").item())


@pytest.mark.parametrize("log", [False, True])
def test_bands_are_those_of_the_tables(log):
    frame = pd.DataFrame({"learner": "it", "seed": [0, 1, 2], "step": 1_000, "error": [0.1, 1.0, 10.0]})
    ax = plots.curves(frame, "error", "learner", log=log)
    low, high = ax.collections[0].get_paths()[0].vertices[:, 1][[0, 1]]
    low, high = min(low, high), max(low, high)
    mean, *ends = compare.interval(frame.error)  # 3.7 (-9.9 to 17.3): nothing to draw on a log axis
    if log:
        factor = np.exp((ends[1] - mean) / mean)
        ends = [mean / factor, mean * factor]
        assert ax.get_yscale() == "log" and low > 0
    assert (low, high) == pytest.approx(ends)
    assert ax.get_lines()[0].get_ydata() == pytest.approx([mean])
    plt.close()


def test_rows_of_one_run_are_no_runs_of_their_own():
    rows = pd.DataFrame({"learner": "it", "seed": [0, 0, 1, 1], "step": 1, "error": [0.0, 2.0, 2.0, 4.0]})
    expected = compare.interval([1.0, 3.0])
    runs = compare.run_means(rows, "error", ["step", "seed"]).unstack("seed")
    assert [one.item() for one in plots.band(runs)] == pytest.approx(expected)


def test_a_figure_is_saved_and_shown_with_its_text(frame, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, **more: shown.append((data, more)))
    ax = plots.curves(frame, "squared_error", "learner")
    lines = [line for line in ax.get_lines() if len(line.get_xdata())]
    assert len({line.get_linestyle() for line in lines[:2]} | {
        str(line._dash_pattern) for line in lines[:2]}) > 1  # line styles, not colour alone
    assert ax.get_ylabel() == plots.LABELS["squared_error"] and ax.get_xlabel() == "examples"
    plots.show(ax.figure, "curve", "what it shows", tmp_path)
    data, more = shown[0]
    assert (tmp_path / "curve.png").read_bytes() == data["image/png"]
    assert more["metadata"]["image/png"]["alt"] == data["text/plain"] == "what it shows"
    assert not plt.get_fignums()


def test_provenance_names_versions_and_parameters(frame, tmp_path, capsys):
    provenance.footer(runs=30)
    text = capsys.readouterr().out
    assert "torch" in text and "commit" in text and "runs         30" in text
    provenance.save_table(frame, tmp_path, "t")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), frame, check_dtype=False)
