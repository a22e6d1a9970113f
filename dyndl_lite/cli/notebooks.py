"""What the notebooks say of themselves: title, parameters, profiles, checks.

The truth is `notebooks/NN_name.py` (py:percent). One cell tagged `parameters` holds literal
assignments, each with a comment that explains it; those values are the `laptop` profile. The
header holds more, under `jupyter: dyndl:`: `profiles`, which name other values, and `checks`,
Python conditions on the parameters that must hold before anything runs.

jupytext reads the file and papermill reads the comments. Papermill's inspection skips what it
does not understand, so the rest is ours: that a cell holds nothing else, and types and checks.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import papermill
import yaml
from nbformat import NotebookNode

from dyndl_lite.files import nearest, UserError

DEFAULT_PROFILE = "laptop"
SET_BY_RUN = {"profile": "--profile", "out": "--out"}
# What a check may call, beside the parameters; a notebook is code, so this is no fence.
IN_CHECKS = {each.__name__: each for each in [abs, all, any, len, max, min, set, sum]}


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
    checks: list[str]

    @property
    def name(self) -> str:
        """The file's name without its suffix, such as `01_loss_of_plasticity`."""
        return self.path.stem


def read(path: Path) -> Notebook:
    """Read a notebook's source; UserError if its header or parameters cell is not as it should be."""
    try:
        content = jupytext.read(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: its header cannot be read ({reason}); correct its YAML")
    titles = [line[2:].strip() for cell in content.cells if cell.cell_type == "markdown"
              for line in cell.source.splitlines() if line.startswith("# ")]
    header = content.metadata.get("dyndl", {})
    checks = header.get("checks", []) if isinstance(header, dict) else None
    if not isinstance(checks, list) or not all(isinstance(check, str) for check in checks):
        raise UserError(f"{path}: `checks` in the header must be a list of conditions as text")
    return Notebook(path, titles[0] if titles else "", read_parameters(path, content),
                    read_profiles(path, header), checks)


def read_parameters(path: Path, content: NotebookNode) -> dict[str, Parameter]:
    """The parameters cell as name, literal default and help."""
    cells = [c for c in content.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"{path}: {len(cells)} cells are tagged `parameters`; tag exactly one")
    try:
        statements = ast.parse(cells[0].source).body
        inspected = papermill.inspect_notebook(content)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}: the parameters cell, or the kernel named in the header, is not "
                        f"Python: {error}")
    found = {}
    for statement in statements:
        try:
            (target,) = statement.targets
            help = inspected.get(target.id, {"help": ""})["help"]
            found[target.id] = Parameter(target.id, ast.literal_eval(statement.value), help)
        except (AttributeError, ValueError):
            raise UserError(f"{path}: `{ast.unparse(statement)}` in the parameters cell is not "
                            "`name = literal`; move it to the next cell")
    for name in SET_BY_RUN:
        if name not in found or not isinstance(found[name].default, str):
            raise UserError(f"{path}: the parameters cell has no text parameter `{name}`; "
                            "add it, `dyndl run` sets it")
    return found


def read_profiles(path: Path, header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The profiles of the header, and `laptop`, which changes nothing."""
    profiles = header.get("profiles", {})
    if not isinstance(profiles, dict) or DEFAULT_PROFILE in profiles or not all(
            isinstance(values, dict) for values in profiles.values()):
        raise UserError(f"{path}: `profiles` in the header must map names (other than "
                        f"{DEFAULT_PROFILE}, the parameters cell) to `parameter: value`")
    profiles = profiles | {DEFAULT_PROFILE: {}}
    order = dict.fromkeys(["smoke", DEFAULT_PROFILE, *profiles])
    return {name: profiles[name] for name in order if name in profiles}


def find(folder: Path, wanted: Iterable[str]) -> list[Notebook]:
    """The notebooks of a folder by number (`01`), by name or `all`, in the order of the walk."""
    paths = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.py"))}
    chosen = set()
    for word in wanted:
        matches = {name for name in paths
                   if word in ("all", name, f"{name}.py") or word.zfill(2) == name[:2]}
        if not matches:
            raise UserError(f"no notebook {word!r} in {folder}{nearest(word, paths)}")
        chosen |= matches
    return [read(paths[name]) for name in sorted(chosen)]


def settle(notebook: Notebook, profile: str, given: dict[str, str]) -> dict[str, Any]:
    """The values with which a notebook runs: its profile's, then those given by name, as text.

    UserError if the profile or a name is unknown, a value has another type than its default, or
    the values of the whole cell fail one of the notebook's checks.
    """
    if profile not in notebook.profiles:
        raise UserError(f"{notebook.name} has no profile {profile!r}"
                        f"{nearest(profile, notebook.profiles)}")
    defaults = {name: each.default for name, each in notebook.parameters.items()}
    chosen = {name: value_of(text, defaults.get(name)) for name, text in given.items()}
    values = {"profile": profile}
    for origin, some in [(f"profile {profile}", notebook.profiles[profile]), ("-p", chosen)]:
        for name, value in some.items():
            check(notebook, name, value, origin)
        values |= some
    every = defaults | values
    for condition in notebook.checks:
        try:
            tree = ast.parse(condition, mode="eval")
            # all of it as globals: a comprehension in the condition does not see locals
            holds = eval(compile(tree, "check", "eval"), {**every, "__builtins__": IN_CHECKS})
        except Exception as error:
            raise UserError(f"{notebook.name}: the check `{condition}` in the header fails with "
                            f"{type(error).__name__}: {error}; correct it")
        if not holds:
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            those = ", ".join(f"{name} = {every[name]!r}" for name in every if name in names)
            raise UserError(f"{notebook.name}: `{condition}` must hold, but {those}; change one")
    return values


def value_of(text: str, default: Any) -> Any:
    """A value from the command line, in any notation that Python or a calculator has for it.

    A whole number may be written `1e6`, an infinite one `inf`; text needs no quotes.
    """
    text = text.strip()
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if isinstance(default, str):
        return value if isinstance(value, str) else text
    if type(default) is int and type(value) is float and "." not in text and value.is_integer():
        return int(value)
    infinite = text.lstrip("+-").lower() in ("inf", "infinity")
    return float(text) if isinstance(default, float) and infinite else value


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
