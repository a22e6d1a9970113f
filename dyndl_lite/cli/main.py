"""The command `dyndl`: list, run, pair, claims, bench, cache."""

import argparse
import importlib.util
import json
import math
import os
import shlex
import shutil
import signal
import sys
import threading
from typing import Any

from dyndl_lite.cli import claims, execution, notebooks, sync
from dyndl_lite.files import absolute, atomic, checkout, read_rows, UserError

# Paths in the environment that a kernel, which runs elsewhere, would read in its own folder.
FOLDERS = ["DYNDL_DATA", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME",
           "XDG_DATA_HOME", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "HF_HOME"]
LISTS = ["PYTHONPATH", "JUPYTER_PATH"]
# The tour takes 50 seconds with a compiler and over half an hour without.
UNCOMPILED = 40
HOW = ("install g++ (`apt install g++`, `conda install cxx-compiler`, on a Mac `xcode-select "
       "--install`), or `pip install 'dyndl_lite[compiler]'`, or name one in CXX")


def main(argv: list[str] | None = None) -> int:
    """Run a command; give its exit code.

    0 if all went well, 1 if a notebook or a claim failed or a file could not be written, 2 if what
    was asked for cannot be done, 130 if interrupted.
    """
    for stream in [sys.stdout, sys.stderr]:  # a terminal that has no λ shows \u03bb
        stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(shielded(sys.argv[1:] if argv is None else argv))
    resolve_environment()
    try:
        return arguments.command(arguments) or 0
    except UserError as error:
        print(f"dyndl: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"dyndl: {error.strerror if error.filename is None else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dyndl: interrupted; the same command takes it up again", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="dyndl", description="Run the companion's notebooks.")
    commands = top.add_subparsers(required=True, metavar="command")

    def add(command, name: str, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        sub.set_defaults(command=command)
        return sub

    folder = {"type": absolute, "default": absolute("build"), "metavar": "FOLDER"}
    sub = add(list_notebooks, "list", "show notebooks, parameters, profiles and measured times")
    sub.add_argument("notebooks", nargs="*", default=["all"], metavar="NN")
    sub = add(run, "run", "execute notebooks")
    sub.add_argument("notebooks", nargs="+", metavar="NN", help="01, a full name, or all")
    sub.add_argument("--profile", default=notebooks.DEFAULT_PROFILE,
                     help="smoke, laptop (default) or paper")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[],
                     metavar=("NAME", "VALUE"), help="give a parameter another value")
    sub.add_argument("--out", **folder, help="where results go (default: build)")
    sub.add_argument("--jobs", type=positive, default=1, help="notebooks at the same time")
    sub = add(pair, "pair", "make executed notebooks the .ipynb beside their sources")
    sub.add_argument("notebooks", nargs="*", default=["all"], metavar="NN")
    sub.add_argument("--from", dest="build", **folder, help="where they were run")
    sub = add(bench, "bench", "time our learners beside a plain per-example loop")
    sub.add_argument("--rounds", type=positive, default=3)
    sub.add_argument("--quick", action="store_true", help="less work, rougher numbers")
    sub.add_argument("--out", **folder)
    sub = add(judge, "claims", "set the papers' claims against what was measured")
    sub.add_argument("--json", action="store_true")
    sub.add_argument("--build", **folder)
    sub = add(cache, "cache", "show the compiled loops that are kept on disk")
    sub.add_argument("--clear", action="store_true", help="delete them")
    return top


def shielded(words: list[str]) -> list[str]:
    """A space before VALUE in `-p NAME VALUE`, lest argparse take -1e-3 for an option."""
    return [f" {word}" if words[max(i - 2, 0)] in ("-p", "--parameter") and i > 1 else word
            for i, word in enumerate(words)]


def positive(text: str) -> int:
    """A whole number from 1 up, from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def resolve_environment() -> None:
    """Make paths in the environment absolute, seen from the user's folder."""
    for name in [*FOLDERS, *LISTS]:
        value = os.environ.get(name, "")
        parts = [part for part in (value.split(os.pathsep) if name in LISTS else [value]) if part]
        if parts:
            os.environ[name] = os.pathsep.join(str(absolute(part)) for part in parts)


def run(arguments: argparse.Namespace) -> int:
    """Check everything that was asked, then execute."""
    import pandas as pd  # in each command that needs it: `dyndl list` is to be quick

    chosen = notebooks.find(checkout() / "notebooks", arguments.notebooks)
    given = dict(arguments.parameter)
    tasks = [(each, notebooks.settle(each, arguments.profile, given)) for each in chosen]
    for each in chosen:
        for end in [".ipynb", ".failed.ipynb"]:
            sync.guard(arguments.out / f"{each.name}{end}", each.path)
    for line in [*(sync.note(each.path) for each in chosen), slowness(chosen, arguments.profile)]:
        if line:
            print(f"dyndl: {line}", file=sys.stderr, flush=True)
    if threading.current_thread() is threading.main_thread():  # only there can signals be set
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    table = pd.DataFrame(execution.run_all(tasks, arguments.out, arguments.jobs))
    print(f"\n{table.to_string(index=False)}\n\nResults are in {arguments.out}")
    return int((table["status"] != "ok").any())


def slowness(chosen: list[notebooks.Notebook], profile: str) -> str:
    """How long a run will take where there is no C++ compiler, and the way out; or nothing.

    At smoke there is nothing to say: so few examples are not compiled for.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    found = any(map(shutil.which, named[:1] or ["g++", "c++", "clang++"]))
    if found or profile == "smoke" or not named and importlib.util.find_spec("ziglang"):
        return ""
    times = [timings(each).get(profile) for each in chosen]
    long = sum(float(row["seconds"]) for row in times if row) * UNCOMPILED / 60
    about = f"roughly {long:.0f} minutes" if all(times) else f"{UNCOMPILED} times as long"
    what = f"CXX names {named[0]}, which is not there" if named else "there is no C++ compiler"
    return f"{what}: loops run uncompiled, and this will take {about}; {HOW}"


def timings(notebook: notebooks.Notebook) -> dict[str, dict[str, str]]:
    """What `data/timings.csv` says of a notebook, by profile."""
    return {row["profile"]: row for row in read_rows(checkout() / "data" / "timings.csv")
            if row["notebook"] == notebook.name}


def list_notebooks(arguments: argparse.Namespace) -> None:
    """Print each notebook with its times and parameters."""
    machines = {}
    for each in notebooks.find(checkout() / "notebooks", arguments.notebooks):
        rows = timings(each)
        machines |= {row["machine"]: None for row in rows.values()}
        times = [f"{name} {float(rows[name]['seconds']):.0f} s" if name in rows
                 else f"{name} not measured" for name in each.profiles]
        lines = [f"  {row_of(parameter, each.profiles)}" for parameter in each.parameters.values()]
        print(f"{each.name}  {each.title}", f"  time: {', '.join(times)}", *lines, "", sep="\n")
    if machines:
        print("Times measured on: " + "; ".join(machines))


def row_of(parameter: notebooks.Parameter, profiles: dict[str, dict[str, Any]]) -> str:
    """A parameter: its name, type, default, help, and other values at other profiles."""
    kind = notebooks.kind(parameter.default)
    others = [f"{name}: {values[parameter.name]!r}" for name, values in profiles.items()
              if values.get(parameter.name, parameter.default) != parameter.default]
    where = f"  [{', '.join(others)}]" if others else ""
    return f"{parameter.name:<20} {kind:<14} {parameter.default!r:<20} {parameter.help}{where}"


def pair(arguments: argparse.Namespace) -> None:
    """Write the pair of each notebook."""
    for each in notebooks.find(checkout() / "notebooks", arguments.notebooks):
        print(sync.pair(each.path, arguments.build))


def bench(arguments: argparse.Namespace) -> None:
    """Measure, print and keep the rates."""
    import pandas as pd

    from dyndl_lite.bench.report import everything  # it imports torch, which takes seconds

    rows = everything(rounds=arguments.rounds, quick=arguments.quick)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:,.1f}".format))
    with atomic(arguments.out / "bench.json") as part:
        part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def judge(arguments: argparse.Namespace) -> int:
    """Print every claim beside what was measured; 1 if one that was run fails."""
    import pandas as pd

    rows = claims.judge(arguments.build)
    if arguments.json:
        for row in rows:
            if row["value"] is not None and not math.isfinite(row["value"]):
                row["value"] = str(row["value"])  # JSON has no such numbers
        print(json.dumps(rows, indent=1))
    else:
        print(pd.DataFrame(rows).astype({"value": float}).to_string(index=False, na_rep="-"))
    return int(any(row["status"] == "not reproduced" for row in rows))


def cache(arguments: argparse.Namespace) -> None:
    """Show the cache of compiled loops, or empty it."""
    from dyndl_lite.experiment import compile_cache  # it imports torch

    print(compile_cache.clear() if arguments.clear else compile_cache.show())


if __name__ == "__main__":
    sys.exit(main())
