"""Ways to push an ensemble through many examples: all give the same numbers, at different speed.

Each of `eager`, `scan`, `in_place`, `one_by_one` and `cuda` takes the batched step
(nets, hypers, x, y) -> (nets, scores) and gives
``advance(nets, hypers, X, Y) -> (nets, scores [steps, settings, runs])``.
"""

import os
import tempfile
from collections.abc import Callable

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from dyndl_lite.experiment import compile_cache, compiler
from dyndl_lite.experiment.compile_cache import notice
from dyndl_lite.experiment.compiler import laid_out
from dyndl_lite.experiment.fingerprint import fingerprint, Unknowable

# Fewer steps than this are done before a compiler would be.
WORTH_COMPILING = 3_000
# A bigger ensemble than this leaves the processor's cache: copying it costs more than a scan saves.
WIDE_BYTES = 16 * 2**20
# An example of more numbers than this (a minibatch of images) keeps the processor busy by itself;
# then the convolutions of one net are faster than those of many at once.
HEAVY_INPUTS = 2**16
# Drivers that `reused` keeps.
MOST_MADE = 32
# Steps captured in one CUDA graph: replaying them costs one launch.
GRAPH_STEPS = 50


def choose(device: torch.device, nets: dict, steps: int, inputs: int = 0) -> str:
    """Name the driver for an ensemble: device, size, its steps, and the numbers in an example."""
    if device.type == "cuda":
        return "cuda"
    if inputs > HEAVY_INPUTS:
        return "one_by_one"
    if steps < WORTH_COMPILING:
        return "eager"
    size = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(nets))
    return "in_place" if size > WIDE_BYTES else "scan"


def make(kind: str, step: Callable) -> Callable:
    """Make the driver of that name around a batched step.

    A compiled driver that cannot be built (no C++ compiler, or torch's private scan is gone) gives
    one notice and goes on as the eager loop; a mistake in the step itself is raised from there.
    ValueError if no driver has that name.
    """
    if kind == "eager":
        return eager(step)
    if kind not in COMPILED:
        raise ValueError(f"driver {kind!r} is unknown: use eager, {', '.join(COMPILED)}")
    compiled, ways = None, {}

    def advance(nets, hypers, X, Y):
        nonlocal compiled
        mark = _mark(nets, hypers, X, Y)
        if mark in ways:
            return ways[mark](nets, hypers, X, Y)
        before = tree_map(torch.clone, nets)  # a driver that fails late may have begun
        try:
            with compile_cache.workshop():
                compiled = compiled or COMPILED[kind](step)
                result = compiled(nets, hypers, X, Y)
            ways[mark] = compiled
        except Exception as error:  # of many kinds: import, compiler, backend
            result = eager(step)(before, hypers, X, Y)
            ways[mark] = eager(step)
            notice(f"running uncompiled, correct but many times slower: {_reason(error)}")
        return result

    return advance


_made = {}  # the last used at the end


def reused(kind: str, step: Callable) -> Callable:
    """Give the driver of that name around a batched step, made once for steps of the same content."""
    try:
        mark = kind, fingerprint(step)
    except Unknowable:
        return make(kind, step)
    _made[mark] = _made.pop(mark, None) or make(kind, step)
    if len(_made) > MOST_MADE:
        del _made[next(iter(_made))]
    return _made[mark]


def eager(step: Callable) -> Callable:
    """Loop over the examples in Python; needs nothing but torch."""
    def advance(nets, hypers, X, Y):
        scores = []
        for x, y in zip(X, Y):
            nets, score = step(nets, hypers, x, y)
            scores.append(score)
        return nets, torch.stack(scores)

    return advance


def scan(step: Callable) -> Callable:
    """Compile the whole loop into one native function, kept on disk: best for small nets on CPU."""
    from torch._higher_order_ops.scan import scan as torch_scan  # private: may move one day

    loops = {}

    def in_this_process(nets, hypers, X, Y):
        return torch_scan(lambda n, e: laid_out(step(n, hypers, *e)), nets, (X, Y))

    def advance(nets, hypers, X, Y):
        mark = _mark(nets, hypers, X[0], Y[0])  # one loop for any number of steps
        if mark not in loops:
            try:
                loops[mark] = compiler.packaged(step, nets, hypers, X, Y)
            except Exception as error:  # torch's packaging is young; its plain compiler is not
                if compiler.compiler() is None:
                    raise
                notice(f"compiled loops are not kept, but made in each process: {_reason(error)}")
                loops[mark] = _compile(in_this_process, {"cpp_wrapper": True, **compiler.FUSED})
        return loops[mark](nets, hypers, X, Y)

    return advance


def _mark(*given) -> tuple:
    """Say for what kind of input something is compiled."""
    leaves, tree = tree_flatten(given)
    return tree, torch.get_num_threads(), *((a.shape, a.stride(), a.dtype) for a in leaves)


def _compile(function: Callable, options: dict) -> Callable:
    """Compile for the shapes that come; every learner of a process may have its own version."""
    import torch._dynamo  # takes a second, and only compiled drivers need it

    torch._dynamo.config.recompile_limit = 256  # the default gives up after 8 learners
    return torch.compile(function, fullgraph=True, dynamic=False,
                         options={**options, **compiler.options()})


def _overwriting(step: Callable) -> Callable:
    """Compile a step that writes the new nets over the old ones, so that nothing is allocated.

    A raised threshold lets the compiler compute a new weight twice rather than store it in between
    (memory is the limit). A step that hands on old leaves to other places reads a copy.
    """
    ways = {}

    def one(nets, hypers, x, y):
        mark = _mark(nets, hypers, x, y)
        if mark not in ways:
            old, new = ([a.untyped_storage().data_ptr() for a in tree_leaves(each)]
                        for each in (nets, step(nets, hypers, x, y)[0]))
            hands_on = any(at in old and at != old[i] for i, at in enumerate(new))
            ways[mark] = hands_on, _compile(write, {"realize_reads_threshold": 16})
        hands_on, way = ways[mark]
        # The copy is made out here, for the compiler would take it for superfluous.
        return way(nets, laid_out(nets) if hands_on else None, hypers, x, y)

    def write(nets, copies, hypers, x, y):
        new, score = step(nets if copies is None else copies, hypers, x, y)
        tree_map(lambda old, value: old.copy_(value), nets, new)
        return score

    return one


def in_place(step: Callable) -> Callable:
    """Loop in Python over a compiled step that overwrites the nets: for wide nets on CPU."""
    one = _overwriting(step)

    def advance(nets, hypers, X, Y):
        scores = [one(nets, hypers, x, y).clone() for x, y in zip(X, Y)]
        return nets, torch.stack(scores)

    return advance


def one_by_one(step: Callable) -> Callable:
    """Let a compiled step overwrite each net alone: for examples that are heavy minibatches, on CPU."""
    one = _overwriting(step)

    def advance(nets, hypers, X, Y):
        settings, runs = tree_leaves(nets)[0].shape[:2]
        scores = torch.empty(len(X), settings, runs, device=X.device)
        for s in range(settings):
            hyper = tree_map(lambda a: a[s:s + 1].clone(), hypers)
            for r in range(runs):
                net = tree_map(lambda a: a[s:s + 1, r:r + 1].clone(), nets)
                for k in range(len(X)):
                    scores[k, s, r] = one(net, hyper, X[k, r:r + 1], Y[k, r:r + 1])[0, 0]
                tree_map(lambda whole, part: whole[s:s + 1, r:r + 1].copy_(part), nets, net)
        return nets, scores

    return advance


def cuda(step: Callable) -> Callable:
    """Replay a CUDA graph of compiled steps; what does not fill a graph goes step by step."""
    one = _overwriting(step)
    captured = {}

    def capture(nets, hypers, X, Y):
        examples = [a[:GRAPH_STEPS].clone() for a in (X, Y)]
        before = tree_map(torch.clone, nets)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm up off the main stream, as capture demands
            for _ in range(3):
                one(nets, hypers, examples[0][0], examples[1][0])
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            scores = torch.stack([one(nets, hypers, x, y) for x, y in zip(*examples)])
        tree_map(lambda now, then: now.copy_(then), nets, before)  # undo the warm-up
        captured.update(graph=graph, examples=examples, scores=scores, nets=nets, hypers=hypers)

    def advance(nets, hypers, X, Y):
        whole = len(X) - len(X) % GRAPH_STEPS
        scores = []
        if whole and captured.get("nets") is not nets:  # a graph is bound to its tensors
            capture(nets, hypers, X, Y)
        for k in range(0, whole, GRAPH_STEPS):
            for a, b in zip(captured["examples"], (X, Y)):
                a.copy_(b[k:k + GRAPH_STEPS])
            captured["graph"].replay()
            scores.append(captured["scores"].clone())
        rest = [one(nets, hypers, x, y).clone() for x, y in zip(X[whole:], Y[whole:])]
        return nets, torch.cat(scores + ([torch.stack(rest)] if rest else []))

    return advance


COMPILED = {"scan": scan, "in_place": in_place, "one_by_one": one_by_one, "cuda": cuda}


def _reason(error: Exception) -> str:
    """Say in a line why something was not compiled: the compiler's own words if there are any."""
    text = f"{type(error).__name__}: {error}"
    if "InvalidCxxCompiler" in text or "No working C++ compiler" in text:
        return compiler.compiler_line()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in lines[1:] if "error:" in line), lines[0])[:200]
    broken = [path for path in (os.path.dirname(torch.__file__), tempfile.gettempdir(),
                                os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")) if " " in path]
    if "CppCompileError" in text and broken:
        said += (f"; torch's compiler commands break at the space in {broken[0]!r}: install the "
                 "library, and let TMPDIR and TORCHINDUCTOR_CACHE_DIR be, where no path has a space")
    return said
