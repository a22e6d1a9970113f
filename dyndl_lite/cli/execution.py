"""Execute notebooks, each in a process of its own, with papermill.

`run_all` begins a child process per notebook; the child is this module's `main`. The children's
standard input is the end of a pipe from their parent, which writes nothing: when that closes,
because of Ctrl-C or because the parent was killed, a child ends its kernel and itself, so that
nothing goes on computing unseen.

Ours, because papermill has no such thing: this ending, many notebooks at a time, a kernel of this
very Python, and a verdict by whether the last cell ran (to papermill `sys.exit(0)` is a success).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat

from dyndl_lite.cli import sync
from dyndl_lite.cli.notebooks import Notebook
from dyndl_lite.files import atomic, put_row

# Children write UTF-8 whatever the locale, and find no code in the folder where they are.
ENVIRONMENT = {"DYNDL_BATCH": "1", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8",
               "PYTHONSAFEPATH": "1"}
INTERRUPTED = 130


def run_all(tasks: list[tuple[Notebook, dict[str, Any]]], out: Path,
            jobs: int) -> list[dict[str, Any]]:
    """Execute notebooks with their values, `jobs` at a time.

    Each leaves `out/NN_name.ipynb`, or `out/NN_name.failed.ipynb` if it did not get to its end,
    and its own files in `out/NN_name/`. The times of those that succeed are in `out/times.csv`.

    Returns
    -------
    list of dict
        For each notebook: notebook, seconds, status (`ok`, or `FAILED`; why is printed).
    """
    # Processes share the cores; threads within each would only collide.
    threads = {"OMP_NUM_THREADS": "1"} if jobs > 1 else {}
    their_end, our_end = os.pipe()
    children = {"env": {**threads, **os.environ, **ENVIRONMENT}, "stdin": their_end}
    lock = threading.Lock()  # of what is printed and of times.csv
    with open(their_end), ThreadPoolExecutor(jobs) as pool:
        try:
            futures = [pool.submit(run_one, *task, out, children, lock) for task in tasks]
            return [future.result() for future in futures]
        finally:  # after Ctrl-C above all
            pool.shutdown(wait=False, cancel_futures=True)
            os.close(our_end)


def run_one(notebook: Notebook, values: dict[str, Any], out: Path, children: dict[str, Any],
            lock: threading.Lock) -> dict[str, Any]:
    """Execute one notebook in a child process and pass its lines on, each whole."""
    folder = out / notebook.name
    command = [sys.executable, "-P", "-m", "dyndl_lite.cli.execution", str(notebook.path),
               str(out / f"{notebook.name}.ipynb"), json.dumps({**values, "out": str(folder)})]
    utf8 = {"encoding": "utf-8", "errors": "replace"}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", **utf8) as last_words:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=last_words,
                                 start_new_session=True, **children, **utf8)
        for line in child.stdout:
            with lock:
                print(f"{notebook.name[:2]} | {line.rstrip()}", flush=True)
        code = child.wait()
        seconds = round(time.monotonic() - start, 1)
        last_words.seek(0)
        words = last_words.read().strip().splitlines()
    with lock:
        if code == 0:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            row = {"notebook": notebook.name, "profile": values["profile"], "seconds": seconds}
            put_row(out / "times.csv", row, ["notebook", "profile"])
        elif code != INTERRUPTED:
            why = words[-1] if code == 1 and words else f"its process ended with code {code}"
            print(f"{notebook.name}: {why}", file=sys.stderr, flush=True)
    return {"notebook": notebook.name, "seconds": seconds, "status": "FAILED" if code else "ok"}


def execute(source: Path, output: Path, values: dict[str, Any]) -> None:
    """Execute a notebook's source with papermill, in this interpreter and the source's folder.

    Raises
    ------
    Exception
        Whatever kept it from its end: a cell that raised, a kernel that died, an output that
        cannot be written. What there is of the notebook is then kept as `*.failed.ipynb`.
    """
    import jupytext
    import papermill
    from ipykernel.kernelspec import get_kernel_dict, RESOURCES
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        """Starts `sys.executable`, whatever kernel called python3 the user has installed."""

        kernel_spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict(
            ["--InteractiveShellApp.ignore_cwd=True"], ["-P"]))

    failed = output.with_suffix(".failed.ipynb")
    with atomic(output) as part:
        threading.Thread(target=end_with_parent, args=[part], daemon=True).start()
        try:
            ran = papermill.execute_notebook(
                jupytext.read(source), part, values, kernel_name="python3", language="python",
                cwd=source.parent, progress_bar=False, stdout_file=sys.stdout,
                stderr_file=sys.stdout, kernel_manager_class=ThisPython)
            for cell in ran.cells:
                if cell.metadata.papermill.status != "completed":
                    raise RuntimeError(f"cell In [{cell.execution_count}] ended the notebook, "
                                       "by sys.exit or the like; later cells did not run")
            finish(part, source)
        except Exception:
            with suppress(Exception):  # of a half-written file nothing is kept
                finish(part, source)
                os.replace(part, failed)
            raise
    failed.unlink(missing_ok=True)


def finish(notebook: Path, source: Path) -> None:
    """Say where a notebook came from, and tell its cells from those that people will type.

    Papermill was given cells, and a temporary name.
    """
    content = nbformat.read(notebook, as_version=4)
    content.metadata.papermill.update(input_path=source.name,
                                      output_path=source.with_suffix(".ipynb").name)
    sync.seal(content)
    nbformat.write(content, notebook)


LEAVE_NOTHING = f"""import pathlib, sys, psutil
for process in psutil.Process().children(recursive=True):
    process.kill()
pathlib.Path(sys.argv[1]).unlink(missing_ok=True)
sys.exit({INTERRUPTED})"""


def end_with_parent(part: Path) -> None:
    """Wait until the parent closes our standard input or dies; then leave nothing behind.

    Another program takes this process over, and with that every other thread is gone at once: none
    can write the notebook again after it has been removed.
    """
    sys.stdin.read()
    os.execv(sys.executable, [sys.executable, "-P", "-c", LEAVE_NOTHING, str(part)])


def describe(error: Exception) -> str:
    """Why a notebook failed, in one line: which cell, the exception and its message."""
    if isinstance(error, OSError) and error.filename is None:
        return error.strerror or str(error)
    if not hasattr(error, "ename"):
        return f"{type(error).__name__}: " + " ".join(str(error).split())
    lines = error.evalue.splitlines() or [""]
    return f"cell In [{error.exec_count}] raised {error.ename}: {lines[0]}"


def main() -> None:
    """The child process: execute one notebook; a failure is the last line on stderr, and code 1."""
    source, output, values = sys.argv[1:]
    try:
        execute(Path(source), Path(output), json.loads(values))
    except Exception as error:
        kept = Path(output).with_suffix(".failed.ipynb")
        hint = f"; see {kept}" if kept.exists() and not isinstance(error, OSError) else ""
        sys.exit(f"{describe(error)}{hint}")


if __name__ == "__main__":
    main()
