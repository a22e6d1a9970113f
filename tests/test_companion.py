"""The command `dyndl`, on small notebooks of its own."""

import ast
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import psutil
import pytest

import dyndl_lite
from dyndl_lite.cli import main, notebooks, sync
from dyndl_lite.files import UserError

CHECKOUT = Path(__file__).resolve().parent.parent
NOTEBOOK = '''# ---
# jupyter:
#   dyndl:
#     profiles:
#       smoke: {steps: 5}
#       paper: {steps: 1000, rates: [0.1, 0.2, 0.3]}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # NAME, a small notebook

# %% tags=["parameters"]
profile = "laptop"  # which profile the values come from
out = "../build/NAME"  # where files go
steps = 10  # examples to learn from
rates = [
    0.1,
]  # step sizes
rate = 0.5  # one step size
fail = False  # raise an error

# %%
import sys, time
from pathlib import Path
Path(out, "checkpoints").mkdir(parents=True)
seen = [profile, steps, rates, rate, sys.executable, str(Path.cwd())]
Path(out, "seen.txt").write_text(repr(seen))
print("hello from", profile)
if fail:
    raise ValueError("no good\\nat all")

# %%
while steps == -1:
    time.sleep(0.1)
'''


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout with two small notebooks; the working directory is elsewhere, and empty."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    for name in ["01_alpha", "02_beta"]:
        (tmp_path / "notebooks" / f"{name}.py").write_text(NOTEBOOK.replace("NAME", name))
    monkeypatch.setattr(main, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def edit(root, old, new, name="01_alpha"):
    path = root / "notebooks" / f"{name}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def seen(root, name):
    return ast.literal_eval((root / "work" / "build" / name / "seen.txt").read_text())


# what is refused before anything runs -----------------------------------------------------------

REFUSED = {
    "unknown parameter, near miss": (["01", "-p", "step", "4"], "did you mean steps?"),
    "unknown parameter, no near miss": (["01", "-p", "zzz", "4"], "there is profile, out, steps"),
    "float for int": (["01", "-p", "steps", "4.0"], "float, but should be int"),
    "bool for int": (["01", "-p", "steps", "True"], "bool, but should be int"),
    "int for bool": (["01", "-p", "fail", "1"], "int, but should be bool"),
    "text for float": (["01", "-p", "rate", "nan"], "str, but should be float"),
    "scalar for list": (["01", "-p", "rates", "0.1"], "float, but should be list of float"),
    "text in list": (["01", "-p", "rates", "[0.1, 'a']"], "should be list of float"),
    "unknown notebook": (["1", "07"], "no notebook '07'"),
    "unknown profile": (["01", "--profile", "smok"], "did you mean smoke?"),
    "set by run": (["01", "-p", "out", "'x'"], "use that"),
}


@pytest.mark.parametrize("words, reason", REFUSED.values(), ids=REFUSED)
def test_bad_requests_exit_2_with_one_line_and_write_nothing(root, capsys, words, reason):
    assert main.main(["run", *words]) == 2
    printed = capsys.readouterr()
    assert reason in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert list((root / "work").iterdir()) == []


def test_a_parameter_must_fit_every_notebook_chosen(root, capsys):
    edit(root, "rate = 0.5", "ratio = 0.5", "02_beta")
    edit(root, "rates, rate,", "rates, ratio,", "02_beta")
    assert main.main(["run", "all", "-p", "rate", "1"]) == 2
    assert "02_beta, -p: no parameter 'rate'" in capsys.readouterr().err
    assert list((root / "work").iterdir()) == []


BROKEN = {
    "misspelt name in a profile": ("smoke: {steps", "smoke: {stpes", "profile smoke: no parameter"),
    "wrong type in a profile": ("smoke: {steps: 5", "smoke: {steps: many", "should be int"),
    "profile that is no mapping": ("smoke: {steps: 5}", "smoke: 5", "`profiles` in the header"),
    "broken YAML": ("smoke: {steps: 5}", "smoke: {steps: 5", "correct its YAML"),
    "no parameters cell": (' tags=["parameters"]', "", "0 cells are tagged"),
    "computed parameter": ("steps = 10", "steps = 5 + max(5, 1)", "move it to the next cell"),
    "no out": ("out = ", "outs = ", "no text parameter `out`"),
}


@pytest.mark.parametrize("old, new, reason", BROKEN.values(), ids=BROKEN)
def test_broken_notebooks_are_told_of_before_anything_runs(root, capsys, old, new, reason):
    edit(root, old, new)
    assert main.main(["run", "all", "--profile", "smoke"]) == 2
    printed = capsys.readouterr()
    assert reason in printed.err and "01_alpha" in printed.err and printed.err.count("\n") == 1
    assert list((root / "work").iterdir()) == []


@pytest.mark.parametrize("value, default, answer", [
    (1, 1.0, True), (1.0, 1, False), (True, 1.0, False), (True, False, True), (None, 1, False),
    ([1, 2], [0.5], True), ([], [0.5], True), ([True], [1], False), ("a", "b", True),
    ([1, "a"], [2, "b"], True), (3, None, True), ({"a": 1}, {}, True), (1, "1", False),
])
def test_a_value_fits_a_parameter_with_a_default_of_its_type(value, default, answer):
    assert notebooks.fits(value, default) is answer


# running ----------------------------------------------------------------------------------------

def test_run_executes_with_the_profile_the_values_given_and_this_interpreter(
        root, capsys, monkeypatch):
    home = root / "home"  # a python3 kernel that belongs to someone else must not be taken
    kernel = home / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        '{"argv": ["/nowhere/python"], "display_name": "other", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(home))
    words = ["run", "1", "02_beta", "--profile", "smoke", "-p", "rates", "[1, 2]", "--jobs", "2"]
    assert main.main(words) == 0
    printed = capsys.readouterr()
    assert "01 | hello from smoke" in printed.out and printed.err == ""
    build = root / "work" / "build"
    for name in ["01_alpha", "02_beta"]:
        assert seen(root, name) == ["smoke", 5, [1, 2], 0.5, sys.executable,
                                    str(root / "notebooks")]
        assert nbformat.read(build / f"{name}.ipynb", 4).cells[-1].execution_count
        assert not (build / name / "checkpoints").exists()
    times = pd.read_csv(build / "times.csv")
    assert list(times.columns) == ["notebook", "profile", "seconds"]
    assert list(times["notebook"]) == ["01_alpha", "02_beta"] and (times["seconds"] > 0).all()
    assert sorted(path.name for path in build.iterdir()) == [
        "01_alpha", "01_alpha.ipynb", "02_beta", "02_beta.ipynb", "times.csv"]


def test_a_failing_notebook_is_kept_and_told_of_in_one_line_while_others_run(root, capsys):
    edit(root, "fail = False", "fail = True")
    assert main.main(["run", "all"]) == 1
    printed = capsys.readouterr()
    build = root / "work" / "build"
    failed = build / "01_alpha.failed.ipynb"
    assert printed.err == f"01_alpha: cell In [3] raised ValueError: no good; see {failed}\n"
    assert "FAILED" in printed.out
    assert failed.exists() and not (build / "01_alpha.ipynb").exists()
    assert (build / "01_alpha" / "checkpoints").exists()
    assert (build / "02_beta.ipynb").exists()
    assert list(pd.read_csv(build / "times.csv")["notebook"]) == ["02_beta"]


def test_an_output_folder_that_cannot_be_is_one_line(root, capsys):
    (root / "work" / "taken").write_text("a file")
    assert main.main(["run", "1", "--out", "taken"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("01_alpha: cannot write ") and error.count("\n") == 1


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_ending_the_command_ends_its_children_and_leaves_nothing_half_written(root, end):
    program = ("import sys; from pathlib import Path; from dyndl_lite import companion; "
               f"main.ROOT = Path({str(root)!r}); sys.exit(main.main())")
    command = subprocess.Popen(
        [sys.executable, "-c", program, "run", "1", "-p", "steps", "-1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "hello" in command.stdout.readline()
    family = psutil.Process(command.pid).children(recursive=True)
    assert len(family) >= 2  # the notebook's process and its kernel
    command.send_signal(end)
    _, error = command.communicate(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert command.returncode == (130 if end == signal.SIGTERM else -signal.SIGKILL)
    assert error.count("\n") == (1 if end == signal.SIGTERM else 0)
    assert [path.name for path in (root / "work" / "build").iterdir()] == ["01_alpha"]


# the other commands -----------------------------------------------------------------------------

def test_list_shows_parameters_profiles_and_times(root, capsys):
    (root / "data" / "timings.csv").write_text(
        "notebook,profile,seconds,machine\n01_alpha,laptop,61.7,two cores\n")
    assert main.main(["list", "1"]) == 0
    printed = capsys.readouterr().out
    assert "01_alpha, a small notebook" in printed and "02_beta" not in printed
    assert "smoke not measured, laptop 62 s, paper not measured" in printed
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("rates")]
    for part in ["list of float", "[0.1]", "step sizes", "[paper: [0.1, 0.2, 0.3]]"]:
        assert part in line
    assert main.main(["list"]) == 0
    assert "02_beta" in capsys.readouterr().out


def test_pair_takes_an_executed_notebook_and_drops_what_tells_of_the_machine(root, capsys):
    source, paired = (root / "notebooks" / f"01_alpha.{end}" for end in ["py", "ipynb"])
    assert main.main(["pair", "1"]) == 2
    assert "dyndl run 01" in capsys.readouterr().err and not paired.exists()
    assert main.main(["run", "1"]) == 0
    assert main.main(["pair", "1"]) == 0
    assert sync.in_sync(source, paired)
    text = paired.read_text()
    assert str(root) not in text and "injected" not in text and "papermill" not in text
    assert "hello from laptop" in text
    counts = [c.execution_count for c in nbformat.read(paired, 4).cells if c.cell_type == "code"]
    assert counts == [1, 2, 3]
    edit(root, "hello from", "greetings from")
    assert not sync.in_sync(source, paired)
    with pytest.raises(UserError, match="another version"):
        sync.pair(source, root / "work" / "build")


def test_pair_refuses_a_run_at_other_values(root, capsys):
    assert main.main(["run", "1", "--profile", "smoke"]) == 0
    assert main.main(["pair", "1"]) == 2
    assert "laptop values" in capsys.readouterr().err


def test_bench_prints_a_table_and_writes_json(root, capsys, monkeypatch):
    asked = []

    def everything(rounds, quick):
        asked.append((rounds, quick))
        return [{"work": "scr", "learner": "backprop", "runs": 300, "rate": 1e7, "loop_rate": 2e3,
                 "ratio": 5e3}]

    fake = SimpleNamespace(everything=everything)
    monkeypatch.setitem(sys.modules, "dyndl_lite.bench.supervised", fake)
    monkeypatch.setattr(dyndl_lite, "bench", fake, raising=False)
    assert main.main(["bench", "--rounds", "2", "--quick"]) == 0
    assert asked == [(2, True)]
    assert "10,000,000.0" in capsys.readouterr().out
    assert pd.read_json("build/bench.json").loc[0, "ratio"] == 5e3


@pytest.mark.parametrize("words", [["run"], ["run", "1", "--jobs", "0"], ["fly"], []])
def test_misused_commands_exit_2(root, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_a_pair_does_without_progress_lines(capsys):
    from nbformat.v4 import new_output

    from dyndl_lite.cli.sync import without_progress
    from dyndl_lite.experiment.progress import LINE, Lines

    text = "backprop 10 %  7 s, about 61 s left\nbackprop ends at 1.2\n"
    output = without_progress(new_output("stream", text=text, name="stdout"))
    assert output.text == "backprop ends at 1.2\n"
    Lines(10, "two words").update(5)
    assert LINE.match(capsys.readouterr().out.strip())
