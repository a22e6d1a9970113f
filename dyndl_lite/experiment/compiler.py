"""Make a native loop of a step with a C++ compiler: the user's, the system's, or one from pip."""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from dyndl_lite.experiment import compile_cache
from dyndl_lite.files import atomic

# A product and a sum in one instruction, rounded once, is a few per cent faster.
FUSED = {"cpp.enable_floating_point_contract_flag": "fast"}
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
    found = next(filter(version, [asked] if asked else ["g++", "clang++"]), None)
    return found if found or asked else _zig()


def compiler_line() -> str:
    """Say in a line which C++ compiler is used, or how to get one."""
    found = compiler()
    if found:
        return f"C++ compiler: {found} ({version(found)})"
    why = f"CXX={os.environ['CXX']} does not run" if os.environ.get("CXX") else "there is none"
    return f"C++ compiler: {why}, so that runs are many times slower ({GET_ONE})"


def options() -> dict:
    """Give torch the compiler's command; raise RuntimeError if there is none."""
    if compiler() is None:
        raise RuntimeError("No working C++ compiler")
    # The processor's instructions are known: to try each one takes the compiler half a minute.
    given = {"cpp.cxx": (None, compiler()), "cpp.vec_isa_ok": True}
    if shutil.which("openssl") is None:  # torch asks that command for the digests of its headers
        given |= {"aot_inductor.precompile_headers": False, "cpp_cache_precompile_headers": False}
    return given


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

    It is compiled for (nets, hypers, X, Y) like those given; the number of steps may change.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    nets, hypers, X, Y = given = _contiguous(given)
    graph = make_fx(lambda *now: laid_out(step(*now)))(nets, hypers, X[0], Y[0])
    how = {**FUSED, **options()}
    key = _key(graph, tree_flatten((nets, hypers, X[0], Y[0])), how)
    run = compile_cache.load(key) or _made(key, graph, given, how)
    shape = tree_flatten(nets)[1]

    def loop(*now):
        *leaves, scores = run(tree_flatten(_contiguous(now))[0])
        return tree_unflatten(leaves, shape), scores

    return loop


def _contiguous(tree):
    return tree_map(torch.Tensor.contiguous, tree)


def laid_out(tree):
    """Give every tensor its own memory (a scan forbids aliases), in the compilers' layout."""
    return tree_map(lambda a: a.clone(memory_format=torch.contiguous_format), tree)


def _made(key: str, graph: fx.GraphModule, given: tuple, how: dict) -> Callable:
    """Compile the loop over a traced step, for any number of steps."""
    from torch._higher_order_ops.scan import scan

    class Loop(torch.nn.Module):
        def forward(self, nets, hypers, X, Y):
            return scan(lambda now, e: laid_out(graph(now, hypers, *e)), nets, (X, Y))

    steps = {0: torch.export.Dim("steps", min=2)}
    sizes = *(tree_map(lambda a: None, tree) for tree in given[:2]), steps, steps
    if len(given[2]) < 2:  # an example loop of one step would be taken for always one
        given = *given[:2], *(torch.cat([a, a]) for a in given[2:])
    with compile_cache.workshop() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own parts
        program = torch.export.export(Loop(), given, strict=True, dynamic_shapes=sizes).module()
        how = {**how, "aot_inductor.output_path": str(place / "loop.so")}
        try:
            path = torch._inductor.aot_compile(program, given, options=how)
        except torch._inductor.exc.CppCompileError:  # a compiler older than the processor?
            how["cpp.vec_isa_ok"] = None
            path = torch._inductor.aot_compile(program, given, options=how)
        return compile_cache.store(key, Path(path))


def _key(graph: fx.GraphModule, given: tuple, how: dict) -> str:
    """Name a loop by all that its code depends on: the step's graph, its input, and the makers."""
    from torch._inductor import config

    parts = [sorted(how.items()), given[1], version(compiler()), torch.__version__,
             torch.version.git_version, torch.get_num_threads(),
             torch.backends.cpu.get_cpu_capability(), platform.platform(), platform.machine(),
             _processor(),
             sorted((k, v) for k, v in os.environ.items() if k.startswith(("ATEN_", "AOT_")))]
    parts += [(a.shape, a.dtype, a.device) for a in given[0]]
    parts += sorted((name, value) for name, value in config.save_config_portable().items()
                    if name != "aot_inductor.metadata")  # what torch notes of the last package
    for name, module in graph.named_modules():
        if isinstance(module, fx.GraphModule):
            parts += [name, module.code]
            for node in module.graph.nodes:
                room = getattr(node.target, "namespace", "aten")
                if room not in ("aten", "prims", "higher_order"):
                    raise RuntimeError(f"the code of {node.target} is not known here")
    for name, constant in [*graph.named_parameters(), *graph.named_buffers()]:
        parts += [name, constant.dtype, constant.tolist()]
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:32]


@cache
def _processor() -> str:
    """Say what the processor can do: the flags of the first one that Linux lists."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()
