"""The command `dyndl`: list, run, bench, claims, pair."""

from __future__ import annotations

import argparse
import ast
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd

from dyndl_lite.cli import claims, execution, notebooks, sync
from dyndl_lite.files import atomic, UserError

ROOT = Path(__file__).resolve().parent.parent.parent


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns
    -------
    int
        0 if all went well, 1 if a notebook or a claim failed or a file could not be written,
        2 if what was asked for cannot be done, 130 if interrupted.
    """
    arguments = parser().parse_args(argv)
    try:
        return arguments.command(arguments)
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

    def add(name: str, command, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        sub.set_defaults(command=command)
        return sub

    sub = add("list", list_notebooks, "show notebooks, parameters, profiles and measured times")
    sub.add_argument("notebooks", nargs="*", default=["all"], metavar="NN")
    sub = add("run", run, "execute notebooks")
    sub.add_argument("notebooks", nargs="+", metavar="NN", help="01, a full name, or all")
    sub.add_argument("--profile", default=notebooks.DEFAULT_PROFILE,
                     help="smoke, laptop (default) or paper")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[],
                     metavar=("NAME", "VALUE"), help="give a parameter another value")
    sub.add_argument("--out", type=Path, default=Path("build"), help="folder for the results")
    sub.add_argument("--jobs", type=positive, default=1, help="notebooks at the same time")
    sub = add("pair", pair, "make executed notebooks the .ipynb beside their sources")
    sub.add_argument("notebooks", nargs="*", default=["all"], metavar="NN")
    sub.add_argument("--from", dest="build", type=Path, default=Path("build"))
    sub = add("bench", bench, "time our learners beside a plain per-example loop")
    sub.add_argument("--rounds", type=positive, default=3)
    sub.add_argument("--quick", action="store_true", help="less work, rougher numbers")
    sub.add_argument("--out", type=Path, default=Path("build"))
    sub = add("claims", judge, "set the papers' claims against what was measured")
    sub.add_argument("--json", action="store_true")
    sub.add_argument("--build", type=Path, default=Path("build"))
    return top


def positive(text: str) -> int:
    """A whole number from 1 up, from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def literal(text: str) -> Any:
    """A value from the command line: a Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def run(arguments: argparse.Namespace) -> int:
    """Check everything that was asked, then execute."""
    chosen = notebooks.find(ROOT / "notebooks", arguments.notebooks)
    given = {name: literal(text) for name, text in arguments.parameter}
    tasks = [(each, notebooks.settle(each, arguments.profile, given)) for each in chosen]
    if threading.current_thread() is threading.main_thread():  # only there can signals be set
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    table = execution.run_all(tasks, arguments.out.resolve(), arguments.jobs)
    failed = table["status"] != "ok"
    print("\n" + table.assign(status=failed.map({True: "FAILED", False: "ok"}))
          .to_string(index=False))
    return int(failed.any())


def list_notebooks(arguments: argparse.Namespace) -> int:
    """Print each notebook with its times and parameters."""
    path = ROOT / "data" / "timings.csv"
    timings = pd.read_csv(path) if path.exists() else pd.DataFrame({"notebook": []})
    for each in notebooks.find(ROOT / "notebooks", arguments.notebooks):
        print(f"{each.name}  {each.title}")
        print(f"  time: {times_of(each, timings[timings['notebook'] == each.name])}")
        for parameter in each.parameters.values():
            print("  " + row_of(parameter, each.profiles))
        print()
    if len(timings):
        print("Times measured on: " + "; ".join(timings["machine"].unique()))
    return 0


def times_of(notebook: notebooks.Notebook, timings: pd.DataFrame) -> str:
    """How long a notebook takes at each of its profiles."""
    seconds = dict(zip(timings.get("profile", []), timings.get("seconds", [])))
    return ", ".join(f"{name} {seconds[name]:.0f} s" if name in seconds
                     else f"{name} not measured" for name in notebook.profiles)


def row_of(parameter: notebooks.Parameter, profiles: dict[str, dict[str, Any]]) -> str:
    """A parameter: its name, type, default, help, and other values at other profiles."""
    kind = notebooks.kind(parameter.default)
    others = [f"{name}: {values[parameter.name]!r}" for name, values in profiles.items()
              if values.get(parameter.name, parameter.default) != parameter.default]
    where = f"  [{', '.join(others)}]" if others else ""
    return f"{parameter.name:<20} {kind:<14} {parameter.default!r:<20} {parameter.help}{where}"


def pair(arguments: argparse.Namespace) -> int:
    """Write the pair of each notebook."""
    for each in notebooks.find(ROOT / "notebooks", arguments.notebooks):
        print(sync.pair(each.path, arguments.build))
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Measure, print and keep the rates."""
    from dyndl_lite.bench import supervised as measured  # it imports torch, which takes seconds

    rows = measured.everything(rounds=arguments.rounds, quick=arguments.quick)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:,.1f}".format))
    with atomic(arguments.out / "bench.json") as part:
        part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def judge(arguments: argparse.Namespace) -> int:
    """Print every claim beside what was measured; 1 if one that was run fails."""
    rows = claims.judge(arguments.build, ROOT / "data")
    columns = ["id", "source", "notebook", "profile", "value", "target", "status"]
    if arguments.json:
        print(json.dumps([{key: finite(row[key]) for key in columns} for row in rows], indent=1))
    else:
        print(pd.DataFrame(rows, columns=columns).to_string(index=False, na_rep="-"))
    return int(any(row["status"] == "not reproduced" for row in rows))


def finite(value: Any) -> Any:
    """NaN and infinity as text: JSON has no such numbers."""
    return str(value) if value in (float("inf"), float("-inf")) or value != value else value


if __name__ == "__main__":
    sys.exit(main())
