"""The drivers: equal numbers on every one, compiled once and kept, and aloud where that fails."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import on_gpu
import pytest
import torch
from torch.utils._pytree import tree_map

from dyndl_lite.experiment import compile_cache, compiler, drivers

pytestmark = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")


@pytest.fixture(autouse=True)
def in_a_cache_of_its_own(monkeypatch, tmp_path):
    """Every test starts with an empty cache and hears all notices."""
    monkeypatch.setenv("DYNDL_CACHE", str(tmp_path / "cache"))
    drivers.notice.cache_clear()
    drivers._made.clear()


def decay(net, hypers, x, y):
    """A step of an ensemble [settings, runs] that is quick to compile."""
    w = net["w"] * hypers["keep"][:, None] + x.sum(-1)
    return {"w": w}, (w - y[..., 0]) ** 2


def handing_on(net, hypers, x, y):
    """A step whose new state is an old leaf, at another place, and a look at one."""
    now = net["now"] + x.sum(-1)
    return {"now": now, "previous": net["now"], "first": net["previous"].view_as(now)}, now


def work(*names, steps=6, runs=3):
    X = torch.arange(steps * runs * 2.).reshape(steps, runs, 2) / 10
    return ({name: torch.ones(2, runs) for name in names}, {"keep": torch.tensor([0.5, 0.9])},
            X, torch.ones(steps, runs, 1))


def fresh(given):
    return tree_map(torch.clone, given)


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["scan", "in_place", "one_by_one"])
def test_a_leaf_that_is_an_old_leaf_is_taken_out_before_it_is_overwritten(kind, capsys):
    given = work("now", "previous", "first")
    expected = drivers.make("eager", handing_on)(*fresh(given))
    assert_same(drivers.make(kind, handing_on)(*fresh(given)), expected)
    assert "uncompiled" not in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_leaf_that_is_an_old_leaf_is_taken_out_on_cuda_too():
    given = work("now", "previous", "first", steps=120)
    expected = drivers.make("eager", handing_on)(*fresh(given))
    ours = drivers.make("cuda", handing_on)(*tree_map(lambda a: a.cuda(), given))
    assert_same(tree_map(lambda a: a.cpu(), ours), expected)


def test_one_loop_serves_any_number_of_steps_and_the_next_process(monkeypatch, capsys):
    given = work("w")
    for steps in (6, 1, 4):
        part = (*given[:2], given[2][:steps], given[3][:steps])
        assert_same(drivers.make("scan", decay)(*part), drivers.make("eager", decay)(*part))
    monkeypatch.setattr(compiler, "_made", None)  # nothing is compiled again
    advance = drivers.make("scan", decay)
    assert_same(advance(*given), drivers.make("eager", decay)(*given))
    assert "1 compiled loops" in compile_cache.show()
    assert "removed" in compile_cache.clear() and "0 compiled loops" in compile_cache.show()
    assert "compiled" not in capsys.readouterr().out


def keys(step, given):
    """Give the key under which a step's loop would be kept."""
    found = []

    def remember(key):
        found.append(key)
        return lambda given: [given[0], given[0]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile_cache, "load", remember)
        compiler.packaged(step, *given)
    return found[0]


def test_the_key_is_what_the_code_depends_on(monkeypatch):
    given, table = work("w"), torch.tensor(1.0)

    def corrected(net, hypers, x, y):
        w = net["w"] * hypers["keep"][:, None] - x.sum(-1)
        return {"w": w}, (w - y[..., 0]) ** 2

    def with_a_table(net, hypers, x, y):
        return {"w": net["w"] * table}, net["w"] + y[..., 0]

    known = keys(decay, given)
    assert known == keys(decay, given) == keys(decay, work("w", steps=9))
    assert known != keys(corrected, given) and known != keys(decay, work("w", runs=4))
    with_one = keys(with_a_table, given)
    table = torch.tensor(2.0)
    assert with_one != keys(with_a_table, given)
    monkeypatch.setattr(compiler, "version", lambda command: "another compiler")
    assert known != keys(decay, given)


def library(tmp_path):
    path = tmp_path / "some.so"
    path.write_bytes(b"a library")
    return path


@pytest.fixture
def opened(monkeypatch):
    """Load no library: give its path."""
    monkeypatch.setattr(compile_cache, "_opened", lambda path: path)


@pytest.mark.parametrize("damage", [b"", b"a librarz", b"a library and more"])
def test_a_damaged_loop_is_removed_aloud_and_never_loaded(tmp_path, opened, capsys, damage):
    compile_cache.store("key", library(tmp_path))
    path = compile_cache.load("key")
    assert path.read_bytes() == b"a library" and compile_cache.load("other") is None
    path.write_bytes(damage)
    assert compile_cache.load("key") is None and not path.exists()
    assert capsys.readouterr().out.count("is damaged and compiled again") == 1


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, opened, capsys):
    compile_cache.store("key", library(tmp_path))
    assert compile_cache.load("key") and (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "cache").chmod(0o777)
    assert compile_cache.load("key") is None
    assert "others may write" in capsys.readouterr().out


def test_another_users_folder_is_not_used(monkeypatch, capsys):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert compile_cache.folder() is None and "another user" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["", "off"])
def test_the_cache_can_be_switched_off(monkeypatch, value):
    monkeypatch.setenv("DYNDL_CACHE", value)
    assert compile_cache.folder() is None and "not kept" in compile_cache.show()


def test_a_folder_that_cannot_be_made_or_filled_costs_the_keeping_only(
        tmp_path, monkeypatch, opened, capsys):
    path = library(tmp_path)
    monkeypatch.setattr(compile_cache.shutil, "copyfile", full)
    assert compile_cache.store("key", path) == path and "not kept" in capsys.readouterr().out
    monkeypatch.setenv("DYNDL_CACHE", str(path / "below a file"))
    assert compile_cache.store("key", path) == path and "not kept" in capsys.readouterr().out


def full(*_):
    raise OSError(28, "No space left on device")


def test_what_was_not_used_for_longest_goes(tmp_path, monkeypatch, opened):
    monkeypatch.setattr(compile_cache, "MOST_BYTES", 20)
    for age, key in enumerate(["new", "old"]):
        compile_cache.store(key, library(tmp_path))
        os.utime(compile_cache.load(key), (1e9 - age, 1e9 - age))
    compile_cache.store("newest", library(tmp_path))
    assert compile_cache.load("new") and compile_cache.load("newest")
    assert compile_cache.load("old") is None


def child(code, **environment):
    """Run a program in a process of its own; give what it printed."""
    code = "from test_drivers import *\n" + textwrap.dedent(code)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=400,
                          env={**os.environ, "PYTHONPATH": paths, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["scan", pytest.param("in_place", marks=pytest.mark.slow)])
def test_spaces_and_umlauts_in_the_cache_and_the_temporary_folder_do_not_matter(tmp_path, kind):
    place = tmp_path / "Über Kurs"
    place.mkdir()
    out = child(f"""
        given = work("w")
        ours = drivers.make({kind!r}, decay)(*fresh(given))
        assert_same(ours, drivers.make("eager", decay)(*given))
        """, DYNDL_CACHE=str(place / "cäche"), TMPDIR=str(place))
    assert out == ""


def test_every_compile_falls_back_aloud(monkeypatch, capsys):
    advance = drivers.make("scan", decay)

    def broken(*_):
        raise PermissionError(13, "Permission denied", "/somewhere")

    first, second = work("w"), work("w", runs=4)
    monkeypatch.setattr(compiler, "packaged", lambda step, *given: drivers.eager(step))
    advance(*first)
    monkeypatch.setattr(compiler, "packaged", broken)
    monkeypatch.setattr(drivers, "_compile", broken)
    assert_same(advance(*second), drivers.make("eager", decay)(*second))
    assert_same(advance(*first), drivers.make("eager", decay)(*first))
    assert "uncompiled" in (said := capsys.readouterr().out) and "/somewhere" in said


def test_the_compilers_own_line_and_the_space_are_named(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/über kurs/cache")
    error = RuntimeError("CppCompileError: C++ compile error\n\nCommand:\ng++ x\n\nOutput:\n"
                         "g++: error: kurs/cache: No such file or directory")
    said = drivers._reason(error)
    assert "g++: error: kurs/cache" in said and "space in '/über kurs/cache'" in said
    assert "\n" not in said


def test_a_driver_is_of_the_content_that_it_was_made_from(monkeypatch):
    def of(world):
        return lambda net, hypers, x, y: (net, x + world["limit"])

    one, other = {"name": "pole", "limit": 1.0}, {"name": "pole", "limit": 3.0}
    given = work("w")
    made = drivers.reused("eager", of(one))
    assert drivers.reused("eager", of(one)) is made
    assert_same(drivers.reused("eager", of(other))(*given)[1], given[2] + 3)
    for limit in range(100):
        drivers.reused("eager", of({"limit": limit}))
    assert len(drivers._made) == drivers.MOST_MADE


def test_a_driver_can_be_asked_for_by_name_and_a_wrong_name_is_refused():
    given = work("w")
    assert_same(drivers.make("eager", decay)(*given)[1].shape, (6, 2, 3))
    with pytest.raises(ValueError, match="driver 'fast' is unknown: use eager, scan"):
        drivers.make("fast", decay)


def test_without_a_compiler_the_line_says_how_to_get_one(tmp_path):
    out = child("print(compiler.compiler_line()); drivers.make('scan', decay)(*work('w'))",
                CXX=str(tmp_path / "none"))
    line, notice = out.splitlines()
    assert "none does not run" in line and "pip install ziglang intel-openmp" in line
    assert "uncompiled" in notice and "pip install ziglang" in notice


@pytest.mark.skipif(not all(map(shutil.which, ("g++", "as", "ld"))), reason="needs g++")
def test_a_compiler_is_enough_without_the_command_openssl(tmp_path):
    """Torch asks it for the digests of headers that it compiles before all else."""
    for command in ("g++", "as", "ld"):
        (tmp_path / command).symlink_to(shutil.which(command))
    out = child("drivers.make('scan', decay)(*work('w'))",
                PATH=str(tmp_path), CXX=str(tmp_path / "g++"))
    assert out == ""  # no notice of a loop that is not kept, or not compiled


def test_what_runs_on_a_card_is_up_to_date(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu.main() == 0
    said = capsys.readouterr().out
    assert "Skipped" in said and "nan" not in said
    assert all(name in said for name in on_gpu.LEARNERS)
