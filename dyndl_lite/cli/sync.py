"""Keep `NN_name.ipynb`, with its outputs, in step with its source `NN_name.py`.

jupytext reads both and tells where they differ, and `jupytext --sync` takes over what was typed
in an `.ipynb`. It goes by the files' times, which a clone or a run does not keep, so ours is: the
outputs come from a run of `dyndl run`, without what tells of the machine, and each cell's id ends
in a digest of its source. A cell whose id does not fit was typed by a person; it is never
overwritten unless it stands in the source too.
"""

import hashlib
from pathlib import Path

import jupytext
import nbformat
from jupytext.compare import compare_cells, NotebookDifference
from nbformat import NotebookNode

from dyndl_lite.cli.notebooks import DEFAULT_PROFILE, SET_BY_RUN
from dyndl_lite.files import atomic, UserError


def read(notebook: Path) -> NotebookNode:
    """Read an `.ipynb`."""
    try:
        return nbformat.read(notebook, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise UserError(f"{notebook} is no notebook ({str(error).splitlines()[0]}); move it away")


def difference(cells: list[NotebookNode], source: Path) -> str:
    """Where cells first differ from a source's in type, text or tags, in a line; or nothing."""
    try:
        compare_cells(cells, jupytext.read(source).cells, compare_outputs=False, compare_ids=False,
                      allow_removed_final_blank_line=True, allow_filtered_cell_metadata=True)
    except NotebookDifference as error:
        return str(error).splitlines()[0]
    return ""


def in_sync(source: Path, notebook: Path) -> bool:
    """Do a `.py` and its `.ipynb` hold the same cells? Told by content, not by timestamps."""
    return notebook.exists() and not difference(read(notebook).cells, source)


def digest(cell: NotebookNode) -> str:
    """What a cell's id ends in if its source is as we wrote it."""
    return hashlib.sha256(cell.source.strip().encode()).hexdigest()[:12]


def seal(content: NotebookNode) -> None:
    """Give every cell its id."""
    content.nbformat_minor = max(content.nbformat_minor, 5)  # ids came with 4.5
    for number, cell in enumerate(content.cells):
        cell.id = f"{number:02d}-{digest(cell)}"


def typed(notebook: Path, source: Path) -> str:
    """Which cells of an `.ipynb` a person typed that are not in the source; or nothing."""
    if not notebook.exists():
        return ""
    known = {cell.source.strip() for cell in jupytext.read(source).cells} | {""}
    return ", ".join(f"{number}" for number, cell in enumerate(read(notebook).cells, 1)
                     if cell.source.strip() not in known
                     and not cell.get("id", "").endswith(f"-{digest(cell)}"))


def guard(notebook: Path, source: Path) -> None:
    """Raise a UserError if writing over an `.ipynb` would lose what a person typed in it."""
    cells = typed(notebook, source)
    if cells:
        raise UserError(f"{notebook} would be overwritten, but its cells {cells} were typed there "
                        f"and are not in {source.name}; copy what you need of them into "
                        f"{source}, or keep the file under another name")


def note(source: Path) -> str:
    """That a source and the `.ipynb` beside it differ, in a line; or nothing."""
    notebook = source.with_suffix(".ipynb")
    if not notebook.exists() or in_sync(source, notebook):
        return ""
    cells = typed(notebook, source)
    if cells:
        return (f"{notebook}: cells {cells} were typed there and are not in {source.name}, which "
                f"is what runs; `jupytext --sync {source}` takes over the newer of the two files")
    return (f"{notebook} is of another version of {source.name}, which is what runs; "
            f"`dyndl pair {source.stem[:2]}` renews it after a run")


def pair(source: Path, build: Path) -> Path:
    """Make the notebook that `dyndl run` left in `build` the pair of its source; give its path.

    Nothing in it tells of the machine. UserError if it has not been run, ran with other values
    than the laptop profile's or from another source, or if a person typed in the present pair.
    """
    executed, target = build / f"{source.stem}.ipynb", source.with_suffix(".ipynb")
    again = f"`dyndl run {source.stem[:2]} --out {build}` first"
    if not executed.exists():
        raise UserError(f"no {executed}; {again}")
    ran = read(executed)
    given = ran.metadata.get("papermill", {}).get("parameters", {})
    if given.get("profile") != DEFAULT_PROFILE or set(given) != set(SET_BY_RUN):
        raise UserError(f"{executed} did not run at its {DEFAULT_PROFILE} values; {again}")
    cells = [cell for cell in ran.cells if "injected-parameters" not in cell.metadata.tags]
    for cell in cells:  # papermill adds times, and empty lists of tags
        cell.metadata = NotebookNode({"tags": cell.metadata.tags} if cell.metadata.tags else {})
    what = difference(cells, source)
    if what:
        raise UserError(f"{executed} ran from another version of {source.name} ({what}); {again}")
    guard(target, source)
    content = jupytext.read(source)
    content.metadata = NotebookNode({name: content.metadata[name] for name in
                                     ["kernelspec", "dyndl"] if name in content.metadata})
    code = [(cell, done) for cell, done in zip(content.cells, cells) if cell.cell_type == "code"]
    for count, (cell, done) in enumerate(code, 1):
        cell.execution_count, cell.outputs = count, printed(done.outputs, count)
    seal(content)
    with atomic(target) as part:
        nbformat.write(content, part)
    return target


def printed(outputs: list[NotebookNode], count: int) -> list[NotebookNode]:
    """A cell's outputs without the lines of progress, with the cell's own count."""
    from dyndl_lite.experiment.progress import LINE  # a room that may import torch

    for output in outputs:
        if output.output_type == "stream":
            lines = output.text.splitlines(keepends=True)
            output.text = "".join(line for line in lines if not LINE.match(line.rstrip("\n")))
        elif "execution_count" in output:
            output.execution_count = count
    return [output for output in outputs if output.get("text") != ""]
