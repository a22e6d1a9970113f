"""Tell two computations apart: a digest of data by content, and of functions by what they do.

A function is its bytecode (comments and layout do not count), its defaults, what its closure holds,
and the globals that it names, each followed as far as it leads. What belongs to Python or to an
installed package is known by its name and version. Names put together at run time are not seen.
"""

import copyreg
import dis
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType

import torch
from torch import Tensor

PLAIN = (type(None), bool, int, float, complex, str, range, slice, type(...), torch.dtype,
         torch.device)
IMPORT = dis.opmap["IMPORT_NAME"]
WRITTEN_BY_PYTHON = {"__repr__", "__eq__", "__hash__", "__replace__"}  # as dataclasses have them
#: Modules that are given to `fingerprint` as a whole, and hold caches.
MACHINERY = {"dyndl_lite.experiment.drivers"}


class Unknowable(TypeError):
    """A thing whose content cannot be read, so that nothing can be said to equal it."""


def fingerprint(*facts) -> str:
    """Digest values, tensors, functions, classes and modules of any kind in 16 hexadecimal digits.

    They are the same in another process if nothing has changed. Unknowable is raised if the content
    of something cannot be read: a lock, a generator, an open file.
    """
    return _Digests().of((facts, sys.implementation.cache_tag, torch.__version__)).hex()[:16]


class _Digests:
    """Digests of things, each made once; kept alive, so that an id stays one thing's own."""

    def __init__(self):
        self.made = {}

    def of(self, thing) -> bytes:
        if id(thing) not in self.made:
            self.made[id(thing)] = thing, b"itself"  # what a cycle comes back to
            whole = hashlib.sha256(type(thing).__qualname__.encode())
            for part in self.parts(thing):
                raw = part if isinstance(part, bytes) else self.of(part)
                whole.update(len(raw).to_bytes(8, "big") + raw)
            self.made[id(thing)] = thing, whole.digest()
        return self.made[id(thing)][1]

    def parts(self, thing) -> Iterable:
        """Give what makes a thing what it is: bytes, and other things."""
        match thing:
            case _ if type(thing) in PLAIN:
                return [repr(thing).encode()]
            case bytes():
                return [thing]
            case Tensor():
                flat = thing.detach().cpu().contiguous().reshape(-1)
                return [thing.dtype, *thing.shape, flat.view(torch.uint8).numpy().tobytes()]
            case set() | frozenset():
                return sorted(self.of(one) for one in thing)
            case list() | tuple():
                return thing if type(thing) in (list, tuple) else [type(thing), *thing]
            case CodeType():
                return _code(thing)
            case FunctionType():
                return _function(thing)
            case ModuleType():
                return [_version(thing.__name__)] if _foreign(thing.__name__) else _module(thing)
            case type():
                return _class(thing)
            case property():
                return [thing.fget]
            case functools.cached_property():
                return [thing.func]
            case _ if hasattr(thing, "__wrapped__"):  # lru_cache, staticmethod, classmethod
                return [thing.__wrapped__]
        try:
            how = copyreg.dispatch_table.get(type(thing))  # what pickle would keep
            kept = how(thing) if how else thing.__reduce_ex__(4)
        except Exception as error:
            raise Unknowable(f"{type(thing).__qualname__}: {error}") from error
        if isinstance(kept, str):
            return [kept, str(getattr(thing, "__module__", ""))]
        make, arguments, state, items, pairs = (*kept, None, None, None)[:5]
        if isinstance(state, dict):  # what was computed once and kept is no difference
            state = {k: v for k, v in state.items() if not isinstance(
                getattr(type(thing), k, None), functools.cached_property)}
        return [type(thing), make, arguments, state, *(items or ()), *(pairs or ())]


def _code(code: CodeType, doc: str | None = None) -> list:
    constants = [c for i, c in enumerate(code.co_consts) if i or c != doc]
    return [code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames, code.co_freevars,
            code.co_cellvars, code.co_argcount, code.co_kwonlyargcount, code.co_flags, constants]


def _function(function: FunctionType) -> list:
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    bound = [function.__defaults__, function.__kwdefaults__, cells]
    home = function.__globals__.get("__name__", "")
    if _foreign(home):  # its closure may still hold what is ours: `vmap` of a function
        return [_version(home), function.__qualname__, *bound]
    return [*_code(function.__code__, function.__doc__), *bound,
            *_reached(_names(function.__code__), function.__globals__, set())]


def _names(code: CodeType) -> list[str]:
    """Give all global names and attributes that code speaks of, inner functions included."""
    if IMPORT in code.co_code[::2]:  # so that what is imported there can be looked into
        for line in dis.get_instructions(code):
            if line.opname == "IMPORT_NAME" and not _foreign(line.argval):
                with suppress(ImportError):
                    importlib.import_module(line.argval)
    inner = [name for c in code.co_consts if isinstance(c, CodeType) for name in _names(c)]
    return sorted({*code.co_names, *inner})


def _reached(names: list[str], space: dict, entered: set[str]) -> Iterator:
    """Give the values of names; through a module go on to what is named in it."""
    for name in names:
        value = space.get(name, sys.modules.get(name))  # an import inside of a function
        if not isinstance(value, ModuleType):
            if name in space and name != "__builtins__":
                yield from (name, value)
        elif _foreign(value.__name__):
            yield _version(value.__name__)
        elif value.__name__ in MACHINERY:
            yield value.__name__
        elif value.__name__ not in entered:
            entered.add(value.__name__)
            yield from _reached(names, vars(value), entered)


def _module(module: ModuleType) -> Iterator:
    """Give all code of a module and its plain constants, and nothing that it refers to."""
    for name, value in sorted(vars(module).items()):
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            yield from _code(value.__code__, value.__doc__)
        elif type(value) in PLAIN and not name.startswith("__"):
            yield from (name, value)


def _class(of: type) -> list:
    if _foreign(of.__module__):
        return [_version(of.__module__), of.__qualname__]
    return [of.__qualname__, *of.__bases__, *(
        (name, value) for name, value in sorted(vars(of).items())
        if name not in WRITTEN_BY_PYTHON and not name.startswith("_abc_")
        and (not name.startswith("__") or callable(value) and not isinstance(value, type))
        and not type(value).__name__.endswith("_descriptor"))]


def _version(name: str) -> str:
    root = name.partition(".")[0]
    return f"{name} {getattr(sys.modules.get(root), '__version__', '')}"


@functools.cache
def _foreign(module: str) -> bool:
    """Is a module Python's own or an installed package's, so that its version tells it apart?"""
    root = module.partition(".")[0]
    if root in ("", "__main__", "dyndl_lite"):
        return False
    if root in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    return any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)
