"""What the notebooks say of themselves: title, parameters, profiles.

The truth is `notebooks/NN_name.py` (py:percent). One cell tagged `parameters` holds literal
assignments, each with a comment that explains it; those values are the `laptop` profile. The
other profiles stand in the header, under `jupyter: dyndl: profiles:`.
"""

from __future__ import annotations

import ast
import difflib
import io
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import yaml
from nbformat import NotebookNode

from dyndl_lite.files import UserError

DEFAULT_PROFILE = "laptop"
SET_BY_RUN = {"profile": "--profile", "out": "--out"}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: its name, default value and the comment behind it."""

    name: str
    default: Any
    help: str


@dataclass(frozen=True)
class Notebook:
    """A notebook as read from its `.py`."""

    path: Path
    title: str
    parameters: dict[str, Parameter]
    profiles: dict[str, dict[str, Any]]
    content: NotebookNode

    @property
    def name(self) -> str:
        """The file's name without its suffix, such as `01_loss_of_plasticity`."""
        return self.path.stem


def read(path: Path) -> Notebook:
    """Read a notebook's source.

    Raises
    ------
    UserError
        If the header is not YAML, or the parameters cell or the profiles are not as they
        should be.
    """
    try:
        content = jupytext.read(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: its header cannot be read ({reason}); correct its YAML")
    titles = [line[2:].strip() for cell in content.cells if cell.cell_type == "markdown"
              for line in cell.source.splitlines() if line.startswith("# ")]
    profiles = read_profiles(path, content.metadata.get("dyndl", {}))
    return Notebook(path, titles[0] if titles else "", read_parameters(path, content), profiles,
                    content)


def read_parameters(path: Path, content: NotebookNode) -> dict[str, Parameter]:
    """The parameters cell as name, literal default and help."""
    cells = [c for c in content.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"{path}: {len(cells)} cells are tagged `parameters`; tag exactly one")
    source = cells[0].source
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise UserError(f"{path}: the parameters cell is not Python: {error}")
    comments = {token.start[0]: token.string.lstrip("# ")
                for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT}
    found = {}
    for statement in statements:
        try:
            (target,) = statement.targets
            value = ast.literal_eval(statement.value)
            found[target.id] = Parameter(target.id, value, comments.get(statement.end_lineno, ""))
        except (AttributeError, ValueError):
            raise UserError(f"{path}: `{ast.unparse(statement)}` in the parameters cell is not "
                            "`name = literal`; move it to the next cell")
    missing = [name for name in SET_BY_RUN if not isinstance(getattr(found.get(name), "default",
                                                                     None), str)]
    if missing:
        raise UserError(f"{path}: the parameters cell has no text parameter `{missing[0]}`; "
                        "add it, `dyndl run` sets it")
    return found


def read_profiles(path: Path, metadata: Any) -> dict[str, dict[str, Any]]:
    """The profiles of the header, and `laptop`, which changes nothing."""
    profiles = metadata.get("profiles", {}) if isinstance(metadata, dict) else None
    if not isinstance(profiles, dict) or DEFAULT_PROFILE in profiles or not all(
            isinstance(values, dict) for values in profiles.values()):
        raise UserError(f"{path}: `profiles` in the header must map names (other than "
                        f"{DEFAULT_PROFILE}, the parameters cell) to `parameter: value`")
    profiles = {name: dict(values) for name, values in profiles.items()}
    first = {name: profiles.pop(name) for name in ["smoke"] if name in profiles}
    return {**first, DEFAULT_PROFILE: {}, **profiles}


def find(folder: Path, wanted: Iterable[str]) -> list[Notebook]:
    """The notebooks of a folder by number (`01`), by name or `all`, in the order of the walk.

    Raises
    ------
    UserError
        If there is no such notebook.
    """
    paths = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.py"))}
    if not paths:
        raise UserError(f"no notebooks in {folder}; run from a checkout of the project")
    chosen = set()
    for word in wanted:
        matches = {name for name in paths
                   if word in ("all", name, f"{name}.py") or word.zfill(2) == name[:2]}
        if not matches:
            raise UserError(f"no notebook {word!r}{nearest(word, paths)}")
        chosen |= matches
    return [read(paths[name]) for name in sorted(chosen)]


def settle(notebook: Notebook, profile: str, given: dict[str, Any]) -> dict[str, Any]:
    """The values with which a notebook runs: its profile's, then those given by name.

    Raises
    ------
    UserError
        If the profile or a name is unknown, or a value has another type than its default.
    """
    if profile not in notebook.profiles:
        raise UserError(f"{notebook.name} has no profile {profile!r}"
                        f"{nearest(profile, notebook.profiles)}")
    profiled = notebook.profiles[profile]
    for values, origin in [(profiled, f"profile {profile}"), (given, "-p")]:
        for name, value in values.items():
            check(notebook, name, value, origin)
    return {**profiled, **given, "profile": profile}


def check(notebook: Notebook, name: str, value: Any, origin: str) -> None:
    """Raise a UserError unless this value may be given to this parameter."""
    where = f"{notebook.name}, {origin}"
    if name not in notebook.parameters:
        raise UserError(f"{where}: no parameter {name!r}{nearest(name, notebook.parameters)}")
    if name in SET_BY_RUN:
        raise UserError(f"{where}: {name!r} is set by {SET_BY_RUN[name]}; use that")
    default = notebook.parameters[name].default
    if not fits(value, default):
        raise UserError(f"{where}: {name} = {value!r} is {kind(value)}, but should be "
                        f"{kind(default)}, as {default!r}")


def fits(value: Any, default: Any) -> bool:
    """Has a value its default's type? An int passes for a float; a bool is not an int."""
    if default is None:
        return True
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and all(
            not default or any(fits(item, like) for like in default) for item in value)
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


def kind(value: Any) -> str:
    """The name of a value's type, with its elements' for a list: `list of int`."""
    name = type(value).__name__
    if isinstance(value, (list, tuple)) and value:
        return f"{name} of " + " or ".join(dict.fromkeys(type(item).__name__ for item in value))
    return name


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the near misses, else all the names."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there is {', '.join(known)}"
