"""Every notebook: in step with its pair, sound in its profiles, and run at smoke."""

import base64
import os
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from dyndl_lite.cli import main, notebooks, sync

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
assert SOURCES, f"no notebooks in {FOLDER}"

every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """The whole walk at smoke, once."""
    out = tmp_path_factory.mktemp("walk")
    main.main(["run", "all", "--profile", "smoke", "--jobs", "2", "--out", str(out)])
    return out


@every_notebook
def test_pair_holds_the_same_cells(source):
    assert sync.in_sync(source, source.with_suffix(".ipynb")), (
        f"run `dyndl run {source.stem[:2]}`, then `dyndl pair {source.stem[:2]}`")


@every_notebook
def test_pair_has_outputs_and_does_not_tell_of_the_machine(source):
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    paths = re.findall(r"/(?:home|Users|root|tmp|work)/[\w./-]+", text)
    assert not paths, f"absolute paths in the pair: {paths[:3]}"
    content = nbformat.reads(text, as_version=4)
    assert any(cell.get("outputs") for cell in content.cells), "the pair has no outputs"


@every_notebook
def test_profiles_fit_the_parameters(source):
    notebook = notebooks.read(source)
    assert set(notebook.profiles) == {"smoke", "laptop", "paper"}
    for profile in notebook.profiles:
        notebooks.settle(notebook, profile, {})
    assert notebook.title
    for parameter in notebook.parameters.values():
        assert parameter.help, f"{parameter.name} has no comment"
    assert notebook.parameters["out"].default == f"../build/{source.stem}"
    assert notebook.parameters["profile"].default == notebooks.DEFAULT_PROFILE


NUMBER = r"-?\d[\d .]*(?:e-?\d+)?"


def named_values(notebook, text):
    """The values that a text tells the reader to give a notebook's parameters, by name."""
    found = re.findall(r"`(\w+) = ([^`]+)`", text)
    found += [(name, number.replace(" ", "").rstrip("."))
              for name, number in re.findall(rf"[Ss]et `(\w+)` to ({NUMBER})", text)]
    for name, parameter in notebook.parameters.items():
        if re.search(rf"[Dd]ouble `{name}`", text):
            found.append((name, repr(2 * parameter.default)))
        for words in re.findall(rf"[Pp]ut ((?:`\w+`[, and]*)+) into `{name}`", text):
            found.append((name, repr(parameter.default + re.findall(r"`(\w+)`", words))))
    return [(name, value) for name, value in found if name in notebook.parameters]


@every_notebook
def test_every_value_that_the_text_names_is_one_that_the_parameters_take(source):
    notebook = notebooks.read(source)
    text = " ".join(cell.source.replace("\n", " ") for cell in jupytext.read(source).cells
                    if cell.cell_type == "markdown")
    assert notebook.checks, "no checks of how the parameters fit each other"
    for name, value in named_values(notebook, text):
        settled = notebooks.settle(notebook, "laptop", {name: value})
        assert str(settled[name]).replace("'", '"') == value.replace("'", '"').strip('"')


def test_the_values_that_exercises_name_are_found():
    tour, = notebooks.find(FOLDER, ["00"])
    text = ("**Try it.** Set `steps` to 1 000 000 and `noise` to 5. With `seed = 3` and `runs=2`. "
            "Double `bins`. Set `depth` to 2")
    assert named_values(tour, text) == [("seed", "3"), ("steps", "1000000"), ("bins", "60")]
    remedies, = notebooks.find(FOLDER, ["05"])
    assert named_values(remedies, "Put `a` and `b` into `live`.") == [
        ("live", repr([*remedies.parameters["live"].default, "a", "b"]))]


def test_the_commands_of_the_readme_are_taken():
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"dyndl (run \d\d[^#\n`]*)", text)
    assert commands
    for command in commands:
        arguments = main.parser().parse_args(main.shielded(command.rstrip(").").split()))
        for notebook in notebooks.find(FOLDER, arguments.notebooks):
            notebooks.settle(notebook, arguments.profile, dict(arguments.parameter))


@every_notebook
def test_runs_at_smoke(source, build):
    executed = build / f"{source.stem}.ipynb"
    assert executed.exists(), f"{source.stem} failed at smoke"
    cells = [c for c in nbformat.read(executed, as_version=4).cells if c.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    data = [output.data for output in outputs if "data" in output]
    assert any("image/png" in each or "text/html" in each for each in data), "no figure, no table"
    for output in outputs:
        png = output.get("data", {}).get("image/png")
        if png:
            assert base64.b64decode(png).startswith(b"\x89PNG")
            alt = output.metadata.get("image/png", {}).get("alt", "")
            assert alt.strip(), "a figure has no text for those who cannot see it"


@every_notebook
def test_writes_only_into_its_own_folder(source, build):
    known = {path.stem for path in SOURCES} | {f"{path.stem}.ipynb" for path in SOURCES}
    assert set(os.listdir(build)) <= known | {"times.csv"}
