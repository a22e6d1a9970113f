"""The house: whole files, progress, pins that agree, a claims file that can be read."""

import errno
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement

from dyndl_lite.cli import claims
from dyndl_lite.files import atomic

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

def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements():
    """pyproject's dependencies, from the text: the standard library reads TOML from 3.11 on."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["test"]
    return project, [Requirement(text) for text in project["dependencies"] + extra]


def test_constraints_are_exact_pins_and_nothing_else():
    text = (ROOT / "constraints.txt").read_text()
    assert "\ntorch==2.13.0\n" in text and "://" not in text and "+cpu" not in text
    for line in text.splitlines()[1:]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_every_dependency_is_pinned_within_its_bounds():
    pinned = {normal(name): version for name, version in pins().items()}
    for requirement in requirements()[1]:
        assert requirement.specifier, f"{requirement.name} has no bound"
        assert requirement.specifier.contains(pinned[normal(requirement.name)]), requirement.name


def test_conda_and_make_install_from_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda, (pip,) = environment["dependencies"][:-1], environment["dependencies"][-1].values()
    assert conda == ["python=3.11", "pip"]
    assert pip == ["-c constraints.txt", "-e .[test]"]
    assert "-c constraints.txt -e '.[test]'" in (ROOT / "Makefile").read_text()


def test_the_command_is_what_pyproject_says():
    module, function = requirements()[0]["scripts"]["dyndl"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("target, end", [("test", "python -m pytest -n 2 --dist loadfile"),
                                         ("run", "dyndl run all --jobs 2 --out build")])
def test_make_sets_up_then_does_what_it_says(tmp_path, target, end):
    command = ["make", "-n", "-C", str(ROOT), f"VENV={tmp_path}/new", "PYTHON=some-python", target]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [line for line in lines if not line.startswith("make")]
    assert any(line.startswith("some-python -m venv") for line in lines)
    assert lines[-1].endswith(end)


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and script.read_text().rstrip().endswith("make test")


def test_the_project_s_claims_can_be_read():
    path = ROOT / "data" / "claims.json"
    if not path.exists():
        pytest.skip("no claims yet")
    names = {source.stem for source in (ROOT / "notebooks").glob("*.py")}
    for claim in claims.load(path).values():
        assert claim["notebook"] in names, f"{claim['id']}: no notebook {claim['notebook']}"
