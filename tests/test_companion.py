"""The command `dyndl`, on small notebooks of its own."""

import ast
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jupytext
import nbformat
import pandas as pd
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

import dyndl_lite.experiment
from dyndl_lite import files
from dyndl_lite.cli import execution, main, notebooks, sync
from dyndl_lite.files import UserError

INF = float("inf")
CHECKOUT = Path(__file__).resolve().parent.parent
NOTEBOOK = '''# ---
# jupyter:
#   dyndl:
#     profiles:
#       smoke: {steps: 5}
#       paper: {steps: 1000, rates: [0.1, 0.2, 0.3]}
#     checks: [len(rates) <= abs(steps), "all(rate > shift for rate in rates)"]
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
shift = 0.0  # added to nothing
fail = False  # raise an error

# %%
import sys, time
from pathlib import Path
Path(out, "checkpoints").mkdir(parents=True)
seen = [profile, steps, rates, rate, sys.executable, str(Path.cwd())]
Path(out, "seen.txt").write_text(repr(seen))
print("hello from", profile, "λ")
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
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(files, "ABOVE", tmp_path)
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
    "values that do not fit each other": (
        ["01", "--profile", "paper", "-p", "steps", "2"],
        "`len(rates) <= abs(steps)` must hold, but steps = 2, rates = [0.1, 0.2, 0.3]"),
    "one of many that does not fit": (["01", "-p", "shift", ".2"], "but rates = [0.1], rate = 0.5"),
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
    "check of nothing": ("len(rates)", "len(ratse)", "NameError"),
    "check that is no Python": ("len(rates)", "len rates", "SyntaxError"),
    "checks that are no list": ("checks: [", "checks: {a: [", "header"),
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


@pytest.mark.parametrize("text, default, value", [
    ("-1e-3", 0.5, -1e-3), ("-.5", 0.5, -0.5), ("+2.", 0.5, 2.0), ("1_000", 1, 1000),
    ("0x10", 1, 16), ("1e6", 1, 1_000_000), ("1e6", 0.5, 1e6), ("-5", 1, -5), ("-inf", 0.5, -INF),
    ("[-1e-3, 2]", [0.1], [-1e-3, 2]), ("mnist", "digits", "mnist"), ("'5'", "a", "5"),
    ("5", "a", "5"), ("-x", "a", "-x"), ("inf", "a", "inf")])
def test_values_on_the_command_line_in_every_notation(text, default, value):
    name, found = main.parser().parse_args(
        main.shielded(["run", "1", "-p", "name", text, "--jobs", "2"])).parameter[0]
    found = notebooks.value_of(found, default)
    assert found == value and type(found) is type(value)


# running ----------------------------------------------------------------------------------------

def test_run_executes_with_the_profile_the_values_given_and_this_interpreter(
        root, capsys, monkeypatch):
    home = root / "home"  # a python3 kernel that belongs to someone else must not be taken
    kernel = home / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        '{"argv": ["/nowhere/python"], "display_name": "other", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(home))
    for place in ["work", "notebooks"]:  # nothing that lies where one stands is code
        for module in ["random", "psutil", "papermill", "ipykernel", "IPython"]:
            (root / place / f"{module}.py").write_text("raise SystemExit('code of the user')")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # has no λ
    monkeypatch.setenv("LC_ALL", "C")
    words = ["run", "1", "02_beta", "--profile", "smoke", "-p", "rates", "[1, 2]", "--jobs", "2"]
    assert main.main(words) == 0
    printed = capsys.readouterr()
    assert "01 | hello from smoke λ" in printed.out and printed.err == ""
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


def test_a_failing_notebook_is_kept_and_told_of_in_one_line_while_others_run(
        root, capsys, monkeypatch):
    edit(root, "fail = False", "fail = True")
    monkeypatch.setenv("CXX", "/nowhere/c++ -v")
    assert main.main(["run", "all"]) == 1
    printed = capsys.readouterr()
    build = root / "work" / "build"
    failed = build / "01_alpha.failed.ipynb"
    slow, error = printed.err.splitlines()
    assert "CXX names /nowhere/c++" in slow and "40 times as long; install g++" in slow
    assert error == f"01_alpha: cell In [3] raised ValueError: no good; see {failed}"
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
    program = ("import sys; from pathlib import Path; from dyndl_lite import files; from "
               "dyndl_lite.cli import main; "
               f"files.ABOVE = Path({str(root)!r}); sys.exit(main.main())")
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
    assert not sync.in_sync(source, paired) and "is of another version" in sync.note(source)
    with pytest.raises(UserError, match="another version"):
        sync.pair(source, root / "work" / "build")
    edit(root, "greetings from", "hello from")
    assert sync.note(source) == ""

    for notebook in [paired, root / "work" / "build" / "01_alpha.ipynb"]:
        content = nbformat.read(notebook, 4)
        content.cells[-1].source += "\nanswer = 42"
        nbformat.write(content, notebook)
    text = paired.read_text()
    assert "cells 4 were typed there" in sync.note(source)
    capsys.readouterr()
    assert main.main(["run", "1", "--out", str(root / "notebooks")]) == 2  # over the pair itself
    assert "cells 4 were typed there" in capsys.readouterr().err
    assert main.main(["run", "1"]) == 2  # over the run
    assert "cells 5 were typed there" in capsys.readouterr().err
    (root / "work" / "build" / "01_alpha.ipynb").unlink()
    assert main.main(["run", "1"]) == 0
    assert "cells 4 were typed there" in capsys.readouterr().err
    assert main.main(["pair", "1"]) == 2
    assert "cells 4 were typed there" in capsys.readouterr().err and paired.read_text() == text
    edit(root, "    time.sleep(0.1)", "    time.sleep(0.1)\nanswer = 42")  # now it is the source's
    assert sync.note(source) == ""


def test_pair_refuses_a_run_at_other_values(root, capsys):
    assert main.main(["run", "1", "--profile", "smoke"]) == 0
    assert main.main(["pair", "1"]) == 2
    assert "laptop values" in capsys.readouterr().err


def test_cells_are_told_apart_by_their_ids(root):
    source, notebook = (root / "notebooks" / f"01_alpha.{end}" for end in ["py", "ipynb"])
    content = jupytext.read(source)
    sync.seal(content)
    nbformat.write(content, notebook)
    edit(root, "hello from", "greetings from")
    assert sync.typed(notebook, source) == ""  # an old copy of the source is nobody's work
    content.cells.insert(1, new_markdown_cell("a thought"))
    content.cells.append(new_code_cell(""))
    nbformat.write(content, notebook)
    assert sync.typed(notebook, source) == "2"
    notebook.write_text("{}")
    with pytest.raises(UserError, match="is no notebook"):
        sync.guard(notebook, source)


@pytest.mark.parametrize("code", ["sys.exit(0)", "raise SystemExit"])
def test_a_notebook_that_ends_itself_early_has_not_succeeded(root, capsys, code):
    edit(root, "if fail:", f"{code}\nif fail:")
    assert main.main(["run", "1", "--profile", "smoke"]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "01_alpha.failed.ipynb" in printed.err
    assert "cell In [3] ended the notebook" in printed.err
    assert "FAILED" in printed.out
    assert [path.name for path in (root / "work" / "build").glob("*.ipynb")] == [
        "01_alpha.failed.ipynb"]


def test_what_there_is_of_a_notebook_is_kept_whatever_the_exception(root, monkeypatch):
    def fails(content, part, *_, **__):
        content.metadata.papermill = {}
        nbformat.write(content, part)
        raise UnicodeEncodeError("cp1252", "λ", 0, 1, "no such character")

    monkeypatch.setattr("papermill.execute_notebook", fails)
    monkeypatch.setattr(execution, "end_with_parent", lambda part: None)
    with pytest.raises(UnicodeEncodeError):
        execution.execute(root / "notebooks" / "01_alpha.py", root / "work" / "01_alpha.ipynb", {})
    (kept,) = (root / "work").iterdir()
    assert kept.name == "01_alpha.failed.ipynb" and "hello" in kept.read_text(encoding="utf-8")


def test_relative_paths_are_those_of_the_user_s_folder(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root / "home"))
    monkeypatch.setenv("DYNDL_DATA", "idx")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "~/cache")
    monkeypatch.setenv("PYTHONPATH", f"mine:{CHECKOUT}:")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    main.resolve_environment()
    assert os.environ["DYNDL_DATA"] == str(root / "work" / "idx")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(root / "home" / "cache")
    assert os.environ["PYTHONPATH"] == f"{root / 'work' / 'mine'}:{CHECKOUT}"
    assert "MPLCONFIGDIR" not in os.environ
    arguments = main.parser().parse_args(["run", "1", "--out=~/results"])
    assert arguments.out == root / "home" / "results"


@pytest.mark.parametrize("cxx, ziglang, profile, said", [
    ("/nowhere/c++", True, "laptop", "roughly 35 minutes"), ("/nowhere/c++", True, "smoke", ""),
    ("/nowhere/c++", True, "paper", "40 times as long"), (sys.executable, False, "laptop", ""),
    (None, False, "laptop", "there is no C++ compiler"), (None, True, "laptop", "")])
def test_a_run_without_a_compiler_says_first_how_long_it_will_take(root, monkeypatch, cxx, ziglang,
                                                                   profile, said):
    (root / "data" / "timings.csv").write_text(
        "notebook,profile,seconds,machine\n01_alpha,laptop,52,two cores\n")
    monkeypatch.setenv("CXX", cxx or "")
    monkeypatch.setenv("PATH", str(root))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ziglang or None)
    line = main.slowness([notebooks.read(root / "notebooks" / "01_alpha.py")], profile)
    assert said in line and bool(line) == bool(said)


def test_cache_shows_and_clears(root, capsys, monkeypatch):
    fake = SimpleNamespace(show=lambda: "3 loops", clear=lambda: "none left")
    monkeypatch.setitem(sys.modules, "dyndl_lite.experiment.compile_cache", fake)
    monkeypatch.setattr(dyndl_lite.experiment, "compile_cache", fake, raising=False)
    assert main.main(["cache"]) == 0 and main.main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == "3 loops\nnone left\n"


def python(*words, **environment):
    """What a Python process says: its code, stdout and stderr."""
    ran = subprocess.run([sys.executable, *words], env={**os.environ, **environment},
                         capture_output=True, encoding="utf-8")
    return ran.returncode, ran.stdout, ran.stderr


def test_list_is_quick_and_fits_any_terminal(root):
    edit(root, "a small notebook", "a small λ")
    program = (f"import sys; from pathlib import Path; from dyndl_lite import files; files.ABOVE = "
               f"Path({str(root)!r}); from dyndl_lite.cli import main; main.main(['list']); "
               "sys.exit(any(name in sys.modules for name in ['torch', 'pandas']))")
    code, out, error = python("-c", program, PYTHONIOENCODING="cp1252")
    assert (code, error) == (0, "") and "a small \\u03bb" in out


@pytest.mark.parametrize("words", [["list"], ["run", "1"], ["pair"], ["claims"]])
def test_without_a_checkout_a_command_is_one_line(root, words):
    shutil.copytree(CHECKOUT / "dyndl_lite", root / "wheel" / "dyndl_lite")
    code, out, error = python("-P", "-m", "dyndl_lite.cli.main", *words,
                              PYTHONPATH=str(root / "wheel"))
    assert code == 2 and out == "" and error.count("\n") == 1
    assert f"{root / 'wheel'} came without its notebooks" in error


def test_bench_prints_a_table_and_writes_json(root, capsys, monkeypatch):
    asked = []

    def everything(rounds, quick):
        asked.append((rounds, quick))
        return [{"work": "scr", "learner": "backprop", "runs": 300, "rate": 1e7, "loop_rate": 2e3,
                 "ratio": 5e3}]

    monkeypatch.setattr("dyndl_lite.bench.report.everything", everything)
    assert main.main(["bench", "--rounds", "2", "--quick"]) == 0
    assert asked == [(2, True)]
    assert "10,000,000.0" in capsys.readouterr().out
    assert pd.read_json("build/bench.json").loc[0, "ratio"] == 5e3


@pytest.mark.parametrize("words", [["run"], ["run", "1", "--jobs", "0"], ["fly"], []])
def test_misused_commands_exit_2(root, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_a_pair_does_printed_lines(capsys):
    from dyndl_lite.cli.sync import printed
    from dyndl_lite.experiment.progress import LINE, Lines

    text = "backprop 10 %  7 s, about 61 s left\nbackprop ends at 1.2\n"
    (output,) = printed([new_output("stream", text=text, name="stdout")], 1)
    assert output.text == "backprop ends at 1.2\n"
    Lines(10, "two words").update(5)
    assert LINE.match(capsys.readouterr().out.strip())
