"""The house: whole files, progress, pins that agree, a claims file that can be read."""

import errno
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from dyndl_lite.cli import claims
from dyndl_lite.files import absolute, atomic, put_row, read_rows

progress = importlib.import_module("dyndl_lite.experiment.progress")
ROOT = Path(__file__).resolve().parent.parent


# atomic -----------------------------------------------------------------------------------------

def test_atomic_writes_the_whole_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with atomic(path) as part:
        assert part.parent == path.parent and part.suffix == ".csv"
        part.write_text("a")
        assert not path.exists()
    assert path.read_text() == "a" and list(path.parent.iterdir()) == [path]


def test_atomic_keeps_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with atomic(path) as part:
            part.write_text("ne")
            raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code, remedy", [(errno.ENOSPC, "free some space"),
                                          (errno.EACCES, "folder that you may write to")])
def test_atomic_tells_in_one_line_that_the_disk_is_full_or_closed(tmp_path, monkeypatch, code,
                                                                  remedy):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        with atomic(path) as part:
            part.write_text("new")
    message = raised.value.strerror
    assert raised.value.errno == code
    assert str(path) in message and remedy in message and "\n" not in message
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_atomic_on_a_disk_that_is_really_full(tmp_path):
    with pytest.raises(OSError, match="No space left.*free some space"):
        with atomic(tmp_path / "table.csv") as part:
            part.symlink_to("/dev/full")
            part.write_text("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_atomic_does_not_blame_itself_for_another_file(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        with atomic(tmp_path / "table.csv"):
            (tmp_path / "input.csv").read_text()
    assert raised.value.filename == str(tmp_path / "input.csv")
    assert "cannot write" not in str(raised.value)


def test_atomic_removes_what_a_killed_writer_left(tmp_path):
    program = ("import os, sys; from dyndl_lite.files import atomic\n"
               "with atomic(sys.argv[1]) as part: part.write_text('half'); os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "table.csv")], cwd=ROOT)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic(tmp_path / "table.csv") as part:
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_row_takes_the_place_of_one_with_the_same_keys(tmp_path):
    path = tmp_path / "times.csv"
    for row in [("b", 1, "λ"), ("a", 2, ""), ("b", 1, "x,y"), ("b", 2, 3.5)]:
        put_row(path, dict(zip(["name", "size", "note"], row)), ["name", "size"])
    assert [tuple(row.values()) for row in read_rows(path)] == [
        ("a", "2", ""), ("b", "1", "x,y"), ("b", "2", "3.5")]
    assert read_rows(tmp_path / "none.csv") == []


def test_absolute_means_a_path_as_the_shell_does(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert [str(absolute(path)) for path in ["~/a", "b/../c", "/d", "~nobody-at-all/e"]] == [
        "/home/me/a", str(tmp_path / "c"), "/d", str(tmp_path / "~nobody-at-all" / "e")]


# progress ---------------------------------------------------------------------------------------

@pytest.fixture
def elsewhere(monkeypatch):
    """Say where the code runs: batch, kernel, parent's words, terminal."""
    def place(batch="", kernel=False, parent=(), terminal=False):
        monkeypatch.setenv("DYNDL_BATCH", batch)
        shell = SimpleNamespace(kernel=object()) if kernel else None
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        parent_process = SimpleNamespace(cmdline=lambda: list(parent))
        monkeypatch.setattr(progress.psutil, "Process", lambda _: parent_process)
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stderr", stream)
    return place


@pytest.mark.parametrize("place, watched", [
    (dict(terminal=True), True),
    (dict(terminal=False), False),
    (dict(terminal=True, batch="1"), False),
    (dict(kernel=True, parent=["/usr/bin/python", "/opt/bin/jupyter-lab"]), True),
    (dict(kernel=True, parent=["/usr/bin/python", "/home/papermill/bin/jupyter-lab"]), True),
    (dict(kernel=True, parent=["/usr/bin/python", "/opt/bin/papermill", "a.ipynb"]), False),
    (dict(kernel=True, parent=["python", "-m", "papermill", "a.ipynb"]), False),
    (dict(kernel=True, parent=["jupyter-lab"], batch="1"), False),
])
def test_a_bar_is_drawn_only_for_a_person(elsewhere, place, watched):
    elsewhere(**place)
    assert progress.someone_watches() is watched


def test_lines_in_batch_one_per_tenth(elsewhere, capsys):
    elsewhere(batch="1")
    with progress.progress(1000, "learning") as shown:
        for _ in range(250):
            shown.update(4)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"learning 10 %  \d+ s, about \d+ s left", lines[0])
    assert lines[-1].startswith("learning 100 %")


def test_lines_stay_few_when_another_bar_s_monitor_wakes(elsewhere, capsys):
    elsewhere(batch="1")
    with progress.progress(100, "compiling first") as shown:
        if shown.maxinterval <= 3_600:  # as tqdm's monitor does with a bar that is silent for so long
            shown.miniters = 1
        for _ in range(100):
            shown.update(1)
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_bar_in_a_terminal(elsewhere, capsys):
    elsewhere(terminal=True)
    with progress.progress(10, "learning") as shown:
        shown.update(10)
    assert "learning" in sys.stderr.getvalue() and capsys.readouterr().out == ""


@pytest.mark.parametrize("total", [0, 1, 3])
def test_lines_with_few_or_no_units(elsewhere, capsys, total):
    elsewhere(batch="1")
    with progress.progress(total, "x") as shown:
        for _ in range(total):
            shown.update(1)
    assert len(capsys.readouterr().out.splitlines()) == total


# pins and entry points --------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(text) for text in sum(EXTRAS.values(), PROJECT["dependencies"])]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")]


def dry_run(target, **variables):
    """The commands that make would give."""
    words = ["make", "-n", "-C", str(ROOT), *(f"{k}={v}" for k, v in variables.items()), target]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    lines = lines.replace("\\\n", "").splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("make")]


def test_every_dependency_is_pinned_exactly_and_within_its_bounds():
    versions = {}
    for pin in PINS:
        (specifier,) = pin.specifier  # one, and without a local label such as +cpu
        assert specifier.operator == "==" and not Version(specifier.version).local and not pin.url
        versions[canonicalize_name(pin.name)] = specifier.version
    assert len(versions) == len(PINS)
    for requirement in REQUIREMENTS:
        assert requirement.specifier, f"{requirement.name} has no bound"
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_conda_and_make_install_the_same_and_both_bring_a_compiler(tmp_path):
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    versions = dict(line.split("=") for line in conda if "=" in line)
    assert SpecifierSet(PROJECT["requires-python"]).contains(versions["python"])
    assert "cxx-compiler" in conda and set(pip) == {"pip"}
    by_conda = {word.strip("'") for line in pip["pip"] for word in line.split()}
    for compiler, extra in [("sh", ""), ("/nowhere/c++ -v", ",compiler")]:
        lines = dry_run("test", VENV=tmp_path / "new", CXX=compiler)
        (install,) = [line for line in lines if "install" in line]
        assert install[install.index("-c") + 1] == "constraints.txt" and "-c" in by_conda
        assert install[install.index("-e") + 1] == f".[test{extra}]" and ".[test]" in by_conda


def test_the_command_is_what_pyproject_says():
    module, function = PROJECT["scripts"]["dyndl"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("target, words", [("test", ["python", "pytest"]),
                                           ("run", ["dyndl", "run", "all", "build"])])
def test_make_sets_up_then_does_what_it_says(tmp_path, target, words):
    lines = dry_run(target, VENV=tmp_path / "new", PYTHON="some-python")
    assert ["some-python", "-m", "venv", str(tmp_path / "new")] in lines
    names = [Path(word).name for word in lines[-1]]
    assert [word for word in names if word in words] == words


def test_ci_runs_make_test(tmp_path):
    (tmp_path / "make").write_text(f"#!/bin/sh\necho $PWD $@ > {tmp_path}/seen\n")
    (tmp_path / "make").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([ROOT / ".ci" / "run"], env={**os.environ, "PATH": path}, check=True)
    assert (tmp_path / "seen").read_text().split() == [str(ROOT), "test"]


def test_the_project_s_claims_can_be_read():
    names = {source.stem for source in (ROOT / "notebooks").glob("*.py")}
    for claim in claims.load().values():
        assert claim["notebook"] in names, f"{claim['id']}: no notebook {claim['notebook']}"
