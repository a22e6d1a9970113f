"""The README: its Python runs, and the files that it names are there."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SMALLER = {"300_000": "600", "270_000": "540", "10_000": "60", "1_000": "200"}


def test_there_is_a_block_for_each_door():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("block", BLOCKS, ids=["ten lines", "own network", "own learner and problem"])
def test_the_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for much, less in SMALLER.items():
        block = block.replace(much, less)
    known = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), known)
    plt.close("all")
    if "frame" in known:
        assert known["frame"].squared_error.notna().all()
    else:
        assert all(p.isfinite().all() for p in known["model"].parameters())


def test_what_it_links_to_and_names_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    rooms = re.findall(r"^\| (`[^|]+) \|", README.partition("## Rooms")[2], re.MULTILINE)
    names = [f"dyndl_lite/{name}" for row in rooms for name in re.findall(r"`([^`]+)`", row)]
    assert len(links) > 15 and len(names) == 10
    assert [one for one in [*links, *names] if not (ROOT / one).exists()] == []
