"""What a newcomer writes: a learner and a problem of their own, in 20 lines each."""

import importlib
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dyndl_lite.experiment import drivers, ensemble
from dyndl_lite.experiment import run as loop
from dyndl_lite.experiment.fingerprint import fingerprint, Unknowable
from dyndl_lite.learning import backprop

# torch's own, when it compiles.
pytestmark = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")

LEARNER = '''
import torch
from dyndl_lite import keyed_random as random
from dyndl_lite.learning import Learner

def correction(w, error, x):
    return w + error * x  # sign

def nlms(inputs):
    """Normalised least mean squares: w <- w + step_size error x / (epsilon + |x|^2)."""

    def start(seed):
        where = torch.arange(inputs, device=seed.device)
        return {"w": 0.1 * random.uniform(seed, random.WEIGHTS, where)}

    def step(net, hyper, x, y):
        error = y[0] - net["w"] @ x
        rate = hyper["step_size"] / (1e-8 + (x ** 2).sum())
        return {"w": correction(net["w"], rate * error, x)}, error ** 2

    return Learner(start, step, {"step_size": 0.1}, f"nlms {inputs}", 1)
'''
PROBLEM = '''
from dataclasses import dataclass
import torch
from dyndl_lite import keyed_random as random

@dataclass(frozen=True)
class Wave:
    """Predict the next value of a noisy wave from the last ones."""
    inputs: int = 4
    noise: float = 0.1
    name = "wave"
    outputs = 1

    def to(self, device):
        return self

    def examples(self, seeds, start, count):
        t = torch.arange(start, start + count, device=seeds.device)[:, None, None]
        t = t + torch.arange(self.inputs + 1, device=seeds.device)
        noise = random.uniform(seeds[None, :, None], random.SIGNALS, t)
        values = torch.sin(0.3 * t) + self.noise * (noise - 0.5)
        return values[..., :-1], values[..., -1:]
'''


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """Give a function that writes both files of a newcomer, and imports them."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(learner=LEARNER, problem=PROBLEM):
        found = {}
        for name, text in (("my_learner", learner), ("my_problem", problem)):
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
            importlib.invalidate_caches()
            monkeypatch.setattr(sys, "dont_write_bytecode", True)
            found[name] = importlib.import_module(name)
        return found["my_learner"].nlms(4), found["my_problem"].Wave()

    yield write
    for name in ("my_learner", "my_problem"):
        sys.modules.pop(name, None)


def run(learner, problem, **more):
    return ensemble.run(problem, {"mine": (learner, {"step_size": [0.1, 0.5]})}, range(3), 400, 100,
                        device="cpu", **more)


def test_both_are_about_20_lines():
    for text in (LEARNER, PROBLEM):
        assert len([line for line in text.splitlines() if line.strip()]) <= 20


def test_it_runs_in_the_ensemble_compiled_and_learns(theirs, capsys):
    learner, problem = theirs()
    frame, compiled = run(learner, problem), run(learner, problem, driver="scan")
    assert "uncompiled" not in capsys.readouterr().out
    np.testing.assert_allclose(frame.squared_error, compiled.squared_error, rtol=1e-3, atol=1e-6)
    first, last = (frame[frame.step == step].squared_error for step in (100, 400))
    assert (last.to_numpy() < first.to_numpy()).all() and last.max() < 0.05


CORRECTED = {
    "a function that the step calls": {"learner": LEARNER.replace("+ error * x", "- error * x")},
    "the step": {"learner": LEARNER.replace("error ** 2", "abs(error)")},
    "the start": {"learner": LEARNER.replace("0.1 * random", "0.2 * random")},
    "the stream": {"problem": PROBLEM.replace("0.3 * t", "0.4 * t")},
    "a default of the stream": {"problem": PROBLEM.replace("noise: float = 0.1", "noise: float = 0.2")},
}


@pytest.mark.parametrize("what", CORRECTED)
def test_a_corrected_bug_takes_effect_with_the_same_folder(theirs, tmp_path, capsys, what):
    """And a comment, a docstring or another line does not cost the checkpoint."""
    first = run(*theirs(), folder=tmp_path / "kept")
    commented = LEARNER.replace("# sign", "# the sign is right").replace("Normalised", "\n\nThe")
    again = run(*theirs("\n" + commented, PROBLEM + "\n# more\n"), folder=tmp_path / "kept")
    assert "afresh" not in capsys.readouterr().out and again.equals(first)
    corrected = theirs(**CORRECTED[what])
    new = run(*corrected, folder=tmp_path / "kept")
    assert "afresh" in capsys.readouterr().out
    assert new.equals(run(*corrected)) and not new.equals(first)


def test_a_corrected_probe_takes_effect(theirs, tmp_path):
    scale = SimpleNamespace(value=1.0)

    def probe(net, X):
        return {"size": scale.value * net["w"].abs().sum()}

    first = run(*theirs(), folder=tmp_path / "kept", probe=probe)
    scale.value = 2.0
    second = run(*theirs(), folder=tmp_path / "kept", probe=probe)
    np.testing.assert_allclose(second["size"], 2 * first["size"])


def test_what_cannot_be_compared_is_not_resumed_and_one_line_says_so(theirs, tmp_path, capsys):
    learner, problem = theirs()
    endless = (i for i in range(9))

    def step(net, hyper, x, y):
        assert endless is not None
        return learner.step(net, hyper, x, y)

    frame = run(learner._replace(step=step), problem, folder=tmp_path / "kept")
    said, = [line for line in capsys.readouterr().out.splitlines() if "without a checkpoint" in line]
    assert "'mine'" in said and "generator" in said and not (tmp_path / "kept").exists()
    assert frame.equals(run(learner, problem))


def test_a_state_that_no_file_can_hold_is_refused_before_work(theirs, tmp_path, monkeypatch):
    class Net(dict):
        pass

    job = loop.Job()
    job.name, job.rows, job.ends, job.start = "mine", [{}], [10], lambda: Net()
    with pytest.raises(ValueError, match="'mine' cannot be kept in a checkpoint") as raised:
        loop.run(job, tmp_path / "kept")
    assert "\n" not in str(raised.value) and not (tmp_path / "kept").exists()


def test_a_folder_that_cannot_be_written_is_told_before_work_and_is_no_misfit(theirs, tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(OSError, match="cannot write .*kept"):
        run(*theirs(), folder=tmp_path / "kept")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/cache"),
                                   KeyError("w"), NameError("name 'torhc' is not defined")])
def test_only_a_misfit_is_called_one(theirs, error):
    learner, problem = theirs()

    def step(net, hyper, x, y):
        raise error

    with pytest.raises(type(error)) as raised:
        run(learner._replace(step=step), problem)
    assert raised.value is error


# fingerprints -----------------------------------------------------------------------------------

def made(scale, name="mine"):
    table = {"scale": torch.tensor(scale)}
    return lambda x: x * table["scale"]


def test_a_fingerprint_tells_contents_apart_and_nothing_else():
    assert fingerprint(made(2.0)) == fingerprint(made(2.0)) != fingerprint(made(3.0))
    assert fingerprint(torch.ones(3)) != fingerprint(torch.ones(3, 1)) != fingerprint(np.ones((3, 1)))
    assert fingerprint([1, 2]) != fingerprint([12]) and fingerprint(1) != fingerprint(1.0)
    assert fingerprint({"a", "b", "c"}) == fingerprint({"c", "b", "a"})
    assert fingerprint(backprop((4, 2, 1))) == fingerprint(backprop((4, 2, 1)))
    assert fingerprint(backprop((4, 2, 1)).step) != fingerprint(backprop((4, 2, 1), "tanh").step)
    assert fingerprint(torch.sin) != fingerprint(torch.cos)


def test_steps_of_the_same_content_share_a_driver_and_others_do_not():
    learners = backprop((4, 2, 1)), backprop((4, 2, 1)), backprop((4, 2, 1), "tanh")
    one, same, other = (drivers.reused("in_place", ensemble.batched(learner.step))
                        for learner in learners)
    assert one is same and one is not other


def test_a_fingerprint_is_the_same_in_another_process():
    code = textwrap.dedent("""
        from dyndl_lite.algorithms.continual_backprop import continual_backprop
        from dyndl_lite.experiment import drivers, diagnostics, ensemble
        from dyndl_lite.experiment.fingerprint import fingerprint
        from dyndl_lite.problems.datasets import digits
        from dyndl_lite.problems.images import PermutedImages
        print(fingerprint(continual_backprop((4, 3, 1)), PermutedImages(*digits(), 9), drivers,
                          diagnostics.probe(), ensemble._Supervised, {"b", "a", "c"}))
        """)
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            check=True).stdout for _ in range(2)}
    assert len(found) == 1


def test_code_that_is_imported_inside_of_a_function_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []

    def step(x):
        from my_helper import factor
        return factor() * x

    for value in (1, 2):
        (tmp_path / "my_helper.py").write_text(f"def factor():\n    return {value}\n# {value}\n")
        sys.modules.pop("my_helper", None)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        found.append(fingerprint(step))
    sys.modules.pop("my_helper", None)
    assert found[0] != found[1]


def test_what_has_no_content_has_no_fingerprint():
    for thing in ((i for i in ()), threading.Lock(), sys.stdout):
        with pytest.raises(Unknowable):
            fingerprint([thing])
