"""Keep `NN_name.ipynb`, with its outputs, in step with its source `NN_name.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from dyndl_lite.cli.notebooks import DEFAULT_PROFILE, SET_BY_RUN
from dyndl_lite.experiment.progress import LINE
from dyndl_lite.files import atomic, UserError


def in_sync(source: Path, notebook: Path) -> bool:
    """Do a `.py` and its `.ipynb` hold the same cells? Told by content, not by timestamps."""
    return notebook.exists() and (
        signature(jupytext.read(source)) == signature(nbformat.read(notebook, as_version=4)))


def signature(content: NotebookNode) -> list[tuple[str, str, list[str]]]:
    """Each cell's type, source and tags."""
    return [(cell.cell_type, cell.source.strip("\n"), list(cell.metadata.get("tags", [])))
            for cell in content.cells]


def pair(source: Path, build: Path) -> Path:
    """Make an executed notebook the pair of its source.

    Parameters
    ----------
    source : Path
        `notebooks/NN_name.py`.
    build : Path
        Where `dyndl run` left `NN_name.ipynb`.

    Returns
    -------
    Path
        The `.ipynb` written beside the source, without anything that tells of the machine.

    Raises
    ------
    UserError
        If it has not been run, ran with other values than the laptop profile's, or ran from
        another source.
    """
    executed = build / f"{source.stem}.ipynb"
    again = f"`dyndl run {source.stem[:2]} --out {build}` first"
    if not executed.exists():
        raise UserError(f"no {executed}; {again}")
    content = nbformat.read(executed, as_version=4)
    given = content.metadata.get("papermill", {}).get("parameters", {})
    if given.get("profile") != DEFAULT_PROFILE or set(given) != set(SET_BY_RUN):
        raise UserError(f"{executed} did not run at its {DEFAULT_PROFILE} values; {again}")
    clean(content)
    if signature(content) != signature(jupytext.read(source)):
        raise UserError(f"{executed} ran from another version of {source.name}; {again}")
    target = source.with_suffix(".ipynb")
    with atomic(target) as part:
        nbformat.write(content, part)
    return target


def clean(content: NotebookNode) -> None:
    """Drop the injected cell and whatever differs between two machines or two runs."""
    content.cells = [cell for cell in content.cells
                     if "injected-parameters" not in cell.metadata.get("tags", [])]
    content.metadata = keep(content.metadata, ["kernelspec", "dyndl"])
    count = 0
    for number, cell in enumerate(content.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = keep(cell.metadata, ["tags"])
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [without_progress(output) for output in cell.outputs]
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count


def without_progress(output: NotebookNode) -> NotebookNode:
    """Drop the progress lines from what a cell printed."""
    if output.output_type == "stream":
        lines = output.text.splitlines(keepends=True)
        output.text = "".join(line for line in lines if not LINE.match(line.rstrip("\n")))
    return output


def keep(metadata: dict[str, Any], names: list[str]) -> NotebookNode:
    """Only these entries."""
    return NotebookNode({name: metadata[name] for name in names if name in metadata})
