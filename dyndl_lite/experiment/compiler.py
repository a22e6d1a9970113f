"""Make a native loop of a step with a C++ compiler: the user's, the system's, or one from pip."""

import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from dyndl_lite.experiment import compile_cache
from dyndl_lite.files import atomic

# A product and a sum in one instruction, rounded once, is a few per cent faster. The processor's
# instructions are known: to try each one with the compiler takes half a minute.
FLAGS = {"cpp.enable_floating_point_contract_flag": "fast", "cpp.vec_isa_ok": True}
GET_ONE = "install g++ or clang++, or: pip install ziglang intel-openmp"


@cache
def version(command: str) -> str | None:
    """Give the first line that a compiler says of its version; None if it does not run."""
    try:
        said = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.splitlines()[0] if said.returncode == 0 and said.stdout else None


@cache
def compiler() -> str | None:
    """Find a C++ compiler: CXX if it is set, else g++, clang++, or PyPI's `ziglang`."""
    asked = os.environ.get("CXX")
    for command in [asked] if asked else ["g++", "clang++"]:
        if version(command):
            return command
    return None if asked else _zig()


def compiler_line() -> str:
    """Say in a line which C++ compiler is used, or how to get one."""
    found = compiler()
    if found:
        return f"C++ compiler: {found} ({version(found)})"
    why = f"CXX={os.environ['CXX']} does not run" if os.environ.get("CXX") else "there is none"
    return f"C++ compiler: {why}, so that runs are many times slower ({GET_ONE})"


def needed() -> str:
    """Give the compiler's command; raise RuntimeError if there is none."""
    if compiler() is None:
        raise RuntimeError("No working C++ compiler")
    return compiler()


def _zig() -> str | None:
    """Write a script that stands for clang++; None without `ziglang` and `intel-openmp`.

    The compiler asks for libgomp, and Intel's libiomp5 has all that it needs of it.
    """
    root = Path(sys.prefix)
    header, library = root / "opt/compiler/include/omp.h", root / "lib/libiomp5.so"
    home = compile_cache.folder()
    if not (home and importlib.util.find_spec("ziglang") and header.exists() and library.exists()):
        return None
    try:
        script, gomp = home / "bin/clang++", home / "bin/libgomp.so"
        with atomic(script) as part:
            part.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang c++ '
                            f'"-I{header.parent}" "-L{gomp.parent}" "$@"\n', encoding="utf-8")
            part.chmod(0o700)
        gomp.unlink(missing_ok=True)
        gomp.symlink_to(library)
    except OSError:
        return None
    return str(script) if version(str(script)) else None


def packaged(step: Callable, *given) -> Callable:
    """Give the native loop over a batched step: from the disk, or compiled and kept there.

    Parameters
    ----------
    step : function of (nets, hypers, x, y)
    given
        (nets, hypers, X, Y) as the loop will get them; the number of steps may change.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    nets, hypers, X, Y = given = _contiguous(given)
    graph = make_fx(lambda *now: tree_map(_own, step(*now)))(nets, hypers, X[0], Y[0])
    options = {**FLAGS, "cpp.cxx": (None, needed())}
    key = _key(graph, tree_flatten((nets, hypers, X[0], Y[0])), options)
    run = compile_cache.load(key) or _made(key, graph, given, options)
    shape = tree_flatten(nets)[1]

    def loop(*now):
        *leaves, scores = run(tree_flatten(_contiguous(now))[0])
        return tree_unflatten(leaves, shape), scores

    return loop


def _contiguous(tree):
    return tree_map(torch.Tensor.contiguous, tree)


def _own(a: torch.Tensor) -> torch.Tensor:
    """Give a leaf its own memory: a scan forbids aliased outputs."""
    return a.clone(memory_format=torch.contiguous_format)


def _made(key: str, graph: fx.GraphModule, given: tuple, options: dict) -> Callable:
    """Compile the loop over a traced step, for any number of steps."""
    from torch._higher_order_ops.scan import scan

    class Loop(torch.nn.Module):
        def forward(self, nets, hypers, X, Y):
            return scan(lambda now, e: tree_map(_own, graph(now, hypers, *e)), nets, (X, Y))

    steps = {0: torch.export.Dim("steps", min=2)}
    sizes = *(tree_map(lambda a: None, tree) for tree in given[:2]), steps, steps
    if len(given[2]) < 2:  # an example loop of one step would be taken for always one
        given = *given[:2], *(torch.cat([a, a]) for a in given[2:])
    program = torch.export.export(Loop(), given, strict=True, dynamic_shapes=sizes).module()
    with compile_cache.workshop() as place:
        target = {"aot_inductor.output_path": str(place / "loop.so")}
        try:
            path = torch._inductor.aot_compile(program, given, options={**options, **target})
        except torch._inductor.exc.CppCompileError:  # a compiler older than the processor?
            options = {**options, "cpp.vec_isa_ok": None}
            path = torch._inductor.aot_compile(program, given, options={**options, **target})
        return compile_cache.store(key, Path(path))


def _key(graph: fx.GraphModule, given: tuple, options: dict) -> str:
    """Name a loop by all that its code depends on: the step's graph, its input, and the makers."""
    from torch._inductor import config

    parts = [sorted(options.items()), given[1], version(needed()), torch.__version__,
             torch.version.git_version, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(),
             platform.platform(), platform.machine(), _processor(),
             sorted((k, v) for k, v in os.environ.items() if k.startswith(("ATEN_", "AOT_")))]
    parts += [(a.shape, a.dtype, a.device) for a in given[0]]
    parts += sorted(config.save_config_portable().items())
    for name, module in graph.named_modules():
        if isinstance(module, fx.GraphModule):
            parts += [name, module.code]
            for node in module.graph.nodes:
                if getattr(node.target, "namespace", "aten") not in ("aten", "prims", "higher_order"):
                    raise RuntimeError(f"the code of {node.target} is not known here")
    for name, constant in [*graph.named_parameters(), *graph.named_buffers()]:
        parts += [name, constant.dtype, constant.tolist()]
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:32]


@cache
def _processor() -> str:
    """Say what the processor can do: the flags of the first one that Linux lists."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
