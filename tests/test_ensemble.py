"""The engine: the same trajectory in any company, on any driver, after any accident."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from torch.utils._pytree import tree_leaves, tree_map

from dyndl_lite.algorithms.backprop import backprop
from dyndl_lite.algorithms.continual_backprop import continual_backprop
from dyndl_lite.algorithms.optimisers import adam, momentum
from dyndl_lite.experiment import checkpoint, diagnostics, drivers, ensemble
from dyndl_lite.experiment import run as run_module
from dyndl_lite.learning import cross_entropy
from dyndl_lite.problems.datasets import digits
from dyndl_lite.problems.images import PermutedImages
from dyndl_lite.problems.regression import SlowlyChangingRegression

# torch's own, when it compiles.
pytestmark = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")

SCR = (20, 5, 1)
STREAM = SlowlyChangingRegression(flip_period=50)
# Replaces a unit every few examples.
BUSY = {"step_size": 0.01, "replacement_rate": 0.02, "maturity_threshold": 10}


@pytest.fixture(autouse=True)
def on_cpu_and_unheard(monkeypatch):
    """Every test hears the notices that earlier ones have heard."""
    drivers.notice.cache_clear()
    drivers._made.clear()
    monkeypatch.delenv("DYNDL_DATA", raising=False)


def run(learner, values=None, seeds=(0, 1, 2), steps=200, bin=50, stream=STREAM, **rest):
    """Run one learner on the CPU."""
    return ensemble.run(stream, {"it": (learner, values or {})}, seeds, steps, bin, device="cpu",
                        **rest)


def pick(frame, **where):
    """Give the rows of some seed or setting."""
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame.reset_index(drop=True)


def one_line(raised):
    """Give the message, after seeing that it is one line."""
    message = str(raised.value)
    assert message and "\n" not in message
    return message


LEARNERS = {
    "linear": (backprop((20, 1)), {"step_size": 0.01}),
    "backprop": (backprop(SCR), {"step_size": 0.01}),
    "adam": (backprop(SCR, "tanh", optimiser=adam), {"step_size": 0.01}),
    "continual": (continual_backprop((20, 5, 4, 1)), BUSY),
    "shallow": (continual_backprop(SCR), BUSY),  # quick to compile
    "random": (continual_backprop(SCR, optimiser=momentum, utility="random"), BUSY),
}


@pytest.fixture(params=["backprop", "adam", "continual", "random"])
def life(request):
    """A learner and its values; the continual ones replace units all the time."""
    return LEARNERS[request.param]


# Tidy results -----------------------------------------------------------------------------------

def test_the_result_is_tidy():
    learners = {"linear": (backprop((20, 1)), {"step_size": [0.01, 0.001]}),
                "continual": (continual_backprop(SCR), BUSY)}
    frame = ensemble.run(STREAM, learners, [4, 2], 200, 50, device="cpu",
                         probe=None)
    assert len(frame) == (2 + 1) * 2 * 4
    assert list(frame.columns[:2]) == ["learner", "step_size"]
    assert {"seed", "step", "squared_error", "replacement_rate"} <= set(frame.columns)
    assert not frame.duplicated(["learner", "step_size", "seed", "step"]).any()
    assert sorted(frame["step"].unique()) == [50, 100, 150, 200]
    assert set(frame["seed"]) == {2, 4}
    assert (frame["squared_error"] > 0).all()


def test_a_bin_holds_the_mean_of_its_errors():
    learner = backprop(SCR)
    frame = run(learner, {"step_size": 0.01}, seeds=[3], steps=100, bin=25)
    X, Y = STREAM.examples(torch.tensor([3]), 0, 100)
    net, errors = learner.start(torch.tensor(3)), []
    for x, y in zip(X[:, 0], Y[:, 0]):
        net, score = learner.step(net, {"step_size": torch.tensor(0.01)}, x, y)
        errors.append(score)
    expected = torch.stack(errors).reshape(4, 25).mean(1)
    assert frame["squared_error"].tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_learners_and_settings_start_from_the_same_networks():
    settings = ensemble.grid(backprop(SCR), step_size=[0.01, 0.1])
    nets, hypers = ensemble.start(backprop(SCR), settings, torch.tensor([5, 6]))
    others, _ = ensemble.start(continual_backprop(SCR), [continual_backprop(SCR).settings],
                               torch.tensor([5, 6]))
    for (W, b), (V, c) in zip(nets["params"], others["params"]):
        assert torch.equal(W[0], W[1]) and torch.equal(W[0], V[0]) and torch.equal(b[0], c[0])
        assert not torch.equal(W[0, 0], W[0, 1])
    torch.testing.assert_close(hypers["step_size"], torch.tensor([0.01, 0.1]))


def test_accuracy_and_the_probe_are_recorded():
    stream = PermutedImages(*digits(), 300)
    learner = backprop((64, 20, 10), loss=cross_entropy)
    frame = run(learner, {"step_size": 0.05}, stream=stream, steps=400, bin=200,
                probe=diagnostics.probe("relu"), probe_examples=50)
    assert frame["accuracy"].between(0.05, 1).all()
    assert {"dead_units", "rarely_active_units", "weight_magnitude", "effective_rank",
            "stable_rank", "stable_rank_frobenius"} <= set(frame.columns)
    net = learner.start(torch.tensor(1))
    X, Y = stream.examples(torch.tensor([1]), 0, 200)
    for x, y in zip(X[:, 0], Y[:, 0]):
        net, _ = learner.step(net, {"step_size": torch.tensor(0.05)}, x, y)
    expected = diagnostics.diagnose(net["params"], X[150:, 0])
    found = pick(frame, seed=1, step=200).iloc[0]
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-3, abs=1e-6)


# Company, chunks, drivers -----------------------------------------------------------------------

def test_a_seeds_trajectory_does_not_depend_on_its_company(life):
    learner, values = life
    alone = run(learner, values, seeds=[3])
    among = run(learner, values, seeds=range(5))
    assert_frame_equal(alone, pick(among, seed=3), rtol=1e-4, atol=1e-5)


def test_a_settings_trajectory_does_not_depend_on_its_company(life):
    learner, values = life
    alone = run(learner, values)
    among = run(learner, {**values, "step_size": [0.03, 0.01, 0.001]})
    assert_frame_equal(alone, pick(among, step_size=0.01), rtol=1e-4, atol=1e-5)
    assert not pick(among, step_size=0.03).equals(pick(among, step_size=0.01))


def test_a_trajectory_does_not_depend_on_the_chunk_length(life):
    learner, values = life
    whole = run(learner, values, steps=100, chunk=50)
    for chunk in (1, 30):
        assert_frame_equal(run(learner, values, steps=100, chunk=chunk), whole, rtol=1e-5)


def test_the_busy_learners_do_replace_units():
    """Or the tests above and below would say nothing of replacement."""
    for name in ("continual", "random", "shallow"):
        nets = after("eager", *LEARNERS[name], steps=200)[0]
        for units in nets["after"][0]["units"]:
            assert (units["age"] < 150).any(-1).all()  # in every layer of every net


def after(kind, learner, values, steps, seeds=3, device="cpu"):
    """Drive an ensemble, two settings of each, through a stream; give its nets and scores."""
    settings = ensemble.grid(learner, **{**values, "step_size": [0.01, 0.003]})
    seeds = torch.arange(seeds, device=device)
    nets, hypers = ensemble.start(learner, settings, seeds)
    advance, scores = drivers.make(kind, ensemble.batched(learner.step)), []
    for t in range(0, steps, 100):
        nets, score = advance(nets, hypers, *STREAM.examples(seeds, t, 100))
        scores.append(score)
    return tree_map(torch.clone, nets), torch.cat(scores)


def assert_same_life(ours, theirs):
    """Compare two results of `after`."""
    torch.testing.assert_close(ours[1].cpu(), theirs[1], rtol=2e-3, atol=2e-3)
    for a, b in zip(tree_leaves(ours[0]), tree_leaves(theirs[0]), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=2e-3, atol=2e-3)


@pytest.fixture(scope="module")
def eager_lives():
    """What every driver must give: backprop and continual backprop, uncompiled."""
    return {name: after("eager", *LEARNERS[name], steps=200) for name in ("backprop", "shallow")}


@pytest.mark.parametrize("name, kind", [("backprop", "scan"), ("shallow", "scan"),
                                        ("backprop", "in_place"),
                                        pytest.param("shallow", "in_place", marks=pytest.mark.slow)])
def test_compiled_drivers_give_the_eager_numbers(name, kind, eager_lives, capsys):
    compiled = after(kind, *LEARNERS[name], steps=200)
    assert "uncompiled" not in capsys.readouterr().out  # it did not fall back to eager
    assert_same_life(compiled, eager_lives[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["backprop", "shallow"])
def test_cuda_gives_the_eager_numbers(name, eager_lives, capsys):
    compiled = after("cuda", *LEARNERS[name], steps=200, device="cuda")
    assert "uncompiled" not in capsys.readouterr().out
    assert_same_life(compiled, eager_lives[name])
    learner, values = LEARNERS[name]
    frames = [ensemble.run(STREAM, {"it": (learner, values)}, range(3), 260, 130, device=device)
              for device in ("cuda", "cpu")]
    assert_frame_equal(*frames, rtol=2e-3, atol=2e-3)


def test_the_driver_fits_the_work():
    small, cpu = {"w": torch.zeros(10)}, torch.device("cpu")
    wide = {"w": torch.zeros(1, dtype=torch.float32).expand(drivers.WIDE_BYTES // 4 + 1)}
    assert drivers.choose(cpu, small, 100) == "eager"
    assert drivers.choose(cpu, small, 10_000) == "scan"
    assert drivers.choose(cpu, wide, 10_000) == "in_place"
    assert drivers.choose(torch.device("cuda"), small, 100) == "cuda"


# What is missing --------------------------------------------------------------------------------

def test_without_torchs_private_scan_it_goes_on_uncompiled(monkeypatch, capsys):
    expected = run(*LEARNERS["backprop"])
    monkeypatch.setitem(sys.modules, "torch._higher_order_ops.scan", None)
    monkeypatch.setattr(drivers, "WORTH_COMPILING", 0)
    for _ in range(2):
        drivers._made.clear()
        assert_frame_equal(run(*LEARNERS["backprop"]), expected)
    notices = [line for line in capsys.readouterr().out.splitlines() if "uncompiled" in line]
    assert len(notices) == 1 and "scan" in notices[0]


def child(code, **environment):
    """Start a Python program that has `run`, `drivers`, ... of this file."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code = head + "from test_ensemble import *\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, **environment})


def test_without_a_compiler_it_goes_on_uncompiled(tmp_path):
    program = child(f"""
        drivers.WORTH_COMPILING = 0
        learners = {{"a b": LEARNERS["linear"], "c": LEARNERS["backprop"]}}
        frame = ensemble.run(STREAM, learners, range(3), 200, 50, device="cpu")
        frame.to_pickle({str(tmp_path / "frame.pkl")!r})
        """, CXX=str(tmp_path / "no-such-compiler"), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "c"))
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    notices = [line for line in out.splitlines() if "uncompiled" in line]
    assert len(notices) == 1 and "install g++" in notices[0]
    learners = {"a b": LEARNERS["linear"], "c": LEARNERS["backprop"]}
    expected = ensemble.run(STREAM, learners, range(3), 200, 50, device="cpu")
    assert_frame_equal(pd.read_pickle(tmp_path / "frame.pkl"), expected, rtol=1e-5)


# Accidents --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Slow(SlowlyChangingRegression):
    """A stream that takes its time, so that there is time to kill who listens, or breaks off."""

    def examples(self, seeds, start, count):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        if os.environ.get("STOP") == str(start):
            raise KeyboardInterrupt
        return super().examples(seeds, start, count)


KILLED = """
    frame = run(*LEARNERS["continual"], stream=Slow(flip_period=50), steps=400, chunk=10,
                folder={folder!r}, save_every=0, probe=diagnostics.probe())
    frame.to_pickle({folder!r} + "/frame.pkl")
    """


def killed_and_resumed(folder):
    """Kill a run in its middle with SIGKILL, start it again; give its result."""
    code, path = KILLED.format(folder=str(folder)), folder / "it.pt"
    program = child(code, PAUSE="0.05")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and program.poll() is None:
        if path.exists() and torch.load(path, weights_only=True)["t"] >= 60:
            break
        time.sleep(0.02)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    assert program.returncode == -signal.SIGKILL
    reached = torch.load(path, weights_only=True)["t"]
    assert 60 <= reached < 400 and not (folder / "frame.pkl").exists()
    again = child(code)
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0 and "afresh" not in out, err
    return pd.read_pickle(folder / "frame.pkl")


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    whole = run(*LEARNERS["continual"], steps=400, chunk=10, probe=diagnostics.probe())
    assert_frame_equal(killed_and_resumed(tmp_path), whole, check_exact=True)


def test_a_compiled_run_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drivers, "WORTH_COMPILING", 0)
    learner, values = LEARNERS["backprop"]
    asked = {"steps": 400, "chunk": 10, "save_every": 0}
    whole = run(learner, values, **asked, folder=tmp_path / "whole")

    monkeypatch.setenv("STOP", "230")
    with pytest.raises(KeyboardInterrupt):
        run(learner, values, **asked, folder=tmp_path, stream=Slow(flip_period=50))
    assert torch.load(tmp_path / "it.pt", weights_only=True)["t"] == 230
    monkeypatch.delenv("STOP")
    resumed = run(learner, values, **asked, folder=tmp_path, stream=Slow(flip_period=50))
    assert "afresh" not in (said := capsys.readouterr().out) and "uncompiled" not in said
    assert_frame_equal(resumed, whole, check_exact=True)


def test_a_finished_run_is_read_back_from_its_checkpoint(tmp_path, monkeypatch):
    asked = {"stream": Slow(flip_period=50), "folder": tmp_path}
    frame = run(*LEARNERS["continual"], **asked)
    monkeypatch.setenv("STOP", "50")  # nothing is computed again
    assert_frame_equal(run(*LEARNERS["continual"], **asked), frame, check_exact=True)


@pytest.mark.parametrize("steps, bin, longer", [(200, 50, 400), (100, 40, 200)])
def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path, monkeypatch, capsys, steps, bin, longer):
    """Bit for bit, if the bins of the shorter one are bins of the longer one; else it starts anew."""
    asked = {"values": BUSY, "bin": bin, "stream": Slow(flip_period=50)}
    learner = LEARNERS["shallow"][0]
    whole = run(learner, **asked, steps=longer)
    run(learner, **asked, steps=steps, folder=tmp_path)
    fits = steps % bin == 0
    if fits:
        monkeypatch.setenv("STOP", "50")
    assert_frame_equal(run(learner, **asked, steps=longer, folder=tmp_path), whole, check_exact=True)
    assert ("afresh" in capsys.readouterr().out) != fits


@pytest.mark.parametrize("steps, bin, ends", [
    (200, 50, [50, 100, 150, 200]), (200, 60, [60, 120, 200]), (200, 70, [70, 140, 200]),
    (30, 70, [30]), (1_000_000, 33_333, [*range(33_333, 966_658, 33_333), 1_000_000])])
def test_the_last_bin_takes_what_is_left(steps, bin, ends):
    assert run_module.bin_ends(steps, bin) == ends


def test_a_ragged_bin_holds_the_mean_of_its_errors():
    asked = {"learner": backprop(SCR), "values": {"step_size": 0.01}, "steps": 110}
    single = run(**asked, bin=1).squared_error.to_numpy().reshape(3, 110)
    ragged = run(**asked, bin=30, chunk=7)
    assert pick(ragged, seed=0).step.tolist() == [30, 60, 90, 110]
    for seed in range(3):
        means = [part.mean() for part in np.split(single[seed], [30, 60, 90])]
        np.testing.assert_allclose(pick(ragged, seed=seed).squared_error, means, rtol=1e-4)


def test_a_prime_bin_is_not_cut_into_single_steps():
    assert [run_module.chunk_of(*given) for given in [(10_007, 1_000), (1_009, 1_000), (997, 1_000),
                                                      (1_500, 1_000), (7, 0)]] == [909, 504, 997, 750, 1]
    lengths = []

    @dataclass(frozen=True)
    class Told(SlowlyChangingRegression):
        def examples(self, seeds, start, count):
            lengths.append(count)
            return super().examples(seeds, start, count)

    run(backprop(SCR), stream=Told(), steps=202, bin=101, chunk=50)
    assert lengths[1:] == [2, 33, 33, 33, 2, 33, 33, 33]


def test_the_score_and_the_driver_may_be_named(monkeypatch):
    made, make = [], drivers.make
    monkeypatch.setattr(drivers, "make", lambda kind, step: made.append(kind) or make("eager", step))
    frame = run(backprop(SCR), driver="in_place", metric="mse")
    assert made == ["in_place"] and "squared_error" not in frame
    np.testing.assert_allclose(frame.mse, run(backprop(SCR)).squared_error)


@pytest.mark.parametrize("change", [
    {"values": {"step_size": 0.02}}, {"seeds": [0, 1, 3]}, {"steps": 150}, {"bin": 100},
    {"metric": "mse"}, {"probe": diagnostics.probe()},
    {"stream": SlowlyChangingRegression(flip_period=60)}, {"learner": backprop(SCR, "tanh")},
], ids=lambda change: next(iter(change)))
def test_a_checkpoint_of_another_run_is_not_continued(tmp_path, capsys, change):
    asked = {"learner": backprop(SCR), "values": {"step_size": 0.01}}
    run(**asked, folder=tmp_path)
    assert "afresh" not in capsys.readouterr().out
    again = run(**{**asked, **change}, folder=tmp_path)
    notices = [line for line in capsys.readouterr().out.splitlines() if "afresh" in line]
    assert len(notices) == 1 and str(tmp_path / "it.pt") in notices[0]
    assert_frame_equal(again, run(**{**asked, **change}), check_exact=True)


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: b"not a checkpoint",
                                    lambda raw: raw[:len(raw) // 2],
                                    lambda raw: raw[:300] + bytes(300) + raw[600:]],
                         ids=["empty", "garbage", "truncated", "overwritten"])
def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path, damage):
    run(*LEARNERS["backprop"], folder=tmp_path)
    path = tmp_path / "it.pt"
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(ValueError) as raised:
        run(*LEARNERS["backprop"], folder=tmp_path)
    assert str(path) in one_line(raised) and "delete it" in one_line(raised)
    assert path.read_bytes() == before


def test_a_checkpoint_of_something_else_is_damaged_too(tmp_path):
    torch.save([1, 2], tmp_path / "it.pt")
    with pytest.raises(ValueError, match="cannot be read") as raised:
        run(*LEARNERS["backprop"], folder=tmp_path)
    one_line(raised)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "it.pt"
    checkpoint.save(path, {"fingerprint": "old", "t": 1})
    before = path.read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as raised:
        checkpoint.save(path, {"fingerprint": "new", "t": 2})
    assert str(path) in one_line(raised) and "free some space" in one_line(raised)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_file_that_may_not_grow_leaves_the_last_checkpoint(tmp_path):
    """The same through the operating system: the new checkpoint is cut off while it is written."""
    program = child(f"""
        import resource
        path = Path({str(tmp_path)!r}) / "it.pt"
        checkpoint.save(path, {{"fingerprint": "old", "a": torch.zeros(10)}})
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            checkpoint.save(path, {{"fingerprint": "new", "a": torch.zeros(100_000)}})
        except OSError as error:
            print(error)
        assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
        """)
    out, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    assert len(out.splitlines()) == 1 and f"cannot write {tmp_path / 'it.pt'}" in out


# Bad requests -----------------------------------------------------------------------------------

FOUR_CLASSES = PermutedImages(torch.rand(8, 4), torch.arange(8) % 4, 8)


@pytest.mark.parametrize("request_, words", [
    ({"steps": 0}, ["steps 0"]),
    ({"bin": 0}, ["bin 0"]),
    ({"driver": "fast"}, ["'fast'", "scan"]),
    ({"seeds": []}, ["seeds"]),
    ({"learner": backprop((19, 5, 1))}, ["'it'", "(19, 5, 1)", STREAM.name, "20 inputs"]),
    ({"learner": backprop(SCR, loss=cross_entropy)}, ["'it'", "cross_entropy", STREAM.name]),
    ({"learner": backprop((20, 5, 2))}, ["'it'", "(20, 5, 2)", "1 outputs"]),
    ({"learner": backprop((4, 5, 2), loss=cross_entropy), "stream": FOUR_CLASSES},
     ["'it'", "(4, 5, 2)", "4 outputs"]),
    ({"learner": backprop((4, 5, 4)), "stream": FOUR_CLASSES}, ["'it'", "squared_error"]),
    ({"values": {"stepsize": 0.1}}, ["stepsize", "step_size"]),
    ({"values": {"step_size": []}}, ["step_size"]),
    ({"learner": continual_backprop(SCR), "values": {"replacement_rate": 0.3}},
     ["replacement_rate 0.3"]),
    ({"learner": backprop(SCR, "softplus")}, ["softplus"]),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_bad_request_is_refused_in_one_line_before_any_work(tmp_path, monkeypatch, request_,
                                                              words):
    monkeypatch.setattr(run_module, "run", None)
    with pytest.raises(ValueError) as raised:
        run(**{"learner": backprop(SCR), "folder": tmp_path / "new", **request_})
    assert all(word in one_line(raised) for word in words), raised.value
    assert not (tmp_path / "new").exists()


def test_a_stream_that_goes_bad_is_named_with_the_step():
    @dataclass(frozen=True)
    class Broken(SlowlyChangingRegression):
        def examples(self, seeds, start, count):
            X, Y = super().examples(seeds, start, count)
            if start <= 137 < start + count:
                Y[137 - start, 1] = torch.nan
            return X, Y

    with pytest.raises(ValueError, match="step 137, run 1") as raised:
        run(backprop(SCR), stream=Broken())
    one_line(raised)
