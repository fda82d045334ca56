"""The real pycuda on the driver of tests/fake_driver.py, for the tests that have that stand-in for a GPU.

    python -m tests.gpu.real_pycuda FOLDER
    SAM2EDGE_SHIM=1 LD_LIBRARY_PATH=FOLDER python -m pytest tests/unit/runtime/backends

The first line makes a libcuda.so.1 that passes each call on to Python; it needs pycuda, gcc and nm.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import inspect
import operator
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType

from sam2edge.runtime.backends.cuda import context, driver
from sam2edge.runtime.backends.cuda.context import Context
from tests.fake_driver import UNKNOWN, Driver
from tests.fake_gpu import PRIMARY, Gpu

LIBRARY = "libcuda.so.1"
CALLS = sorted(name for name, _ in inspect.getmembers(Driver, inspect.isfunction) if name.startswith("cu"))
BITS = {"byte": 8, **dict.fromkeys(("attribute", "code", "device", "flags", "index", "length", "mode"), 32)}
"""How wide arguments of these names are, which no pointer has: the rest of their register may hold anything."""
_MOST = 6
"""How many arguments are passed in registers, which is enough for all of these calls."""
_CALL = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_size_t] * _MOST)


def compile_shim(folder: Path) -> None:
    """Write libcuda.so.1; what else pycuda expects of a driver, and nobody calls here, is not supported."""
    package = importlib.util.find_spec("pycuda")
    assert package is not None
    assert package.submodule_search_locations is not None
    (extension,) = Path(package.submodule_search_locations[0]).glob("_driver*.so")
    listed = subprocess.run(["nm", "-D", "--undefined-only", extension], stdout=subprocess.PIPE, text=True, check=True)
    needed = {line.split()[-1] for line in listed.stdout.splitlines()} - {*CALLS}
    others = sorted(name for name in needed if name.startswith("cu") and name[2].isupper())
    given, passed = (", ".join(f"{kind}{number}" for number in range(_MOST)) for kind in ("long a", "a"))
    lines = [f"int (*calls[{len(CALLS)}])({', '.join(['long'] * _MOST)});"]
    lines += [f"int {name}({given}) {{ return calls[{index}]({passed}); }}" for index, name in enumerate(CALLS)]
    lines += [f"int {name}(void) {{ return 801; }}" for name in others]  # CUDA_ERROR_NOT_SUPPORTED
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "shim.c"
    source.write_text("\n".join(lines) + "\n")
    subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", folder / LIBRARY, source], check=True)


class RealPycuda(Gpu):
    """The driver behind the real pycuda, of which a process has one."""

    def __init__(self):
        self._contexts, self._passed = [], [_CALL(self._passing(name)) for name in CALLS]
        table = (_CALL * len(CALLS)).in_dll(ctypes.CDLL(LIBRARY), "calls")
        for index, call in enumerate(self._passed):
            table[index] = call
        super().__init__()

    def _passing(self, name):
        parameters = inspect.signature(getattr(self, name)).parameters
        masks = [(1 << BITS.get(parameter, 64)) - 1 for parameter in parameters]

        def passed(*registers):
            try:
                return self.call(name, *map(operator.and_, registers, masks))
            except BaseException:  # cannot pass through pycuda
                self.lost.append(traceback.format_exc())
                return UNKNOWN

        return passed

    def make_pycuda(self):
        import pycuda.driver

        made = ModuleType("pycuda.driver")  # a copy, which tests may change
        made.__dict__.update(vars(pycuda.driver), gpu=self)
        return made

    def install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.driver)
        monkeypatch.setattr(sys.modules["pycuda"], "driver", self.driver)
        monkeypatch.setattr(driver, "library", functools.cache(lambda: ctypes.CDLL(LIBRARY)))
        monkeypatch.setattr(context, "_primary", functools.cache(PRIMARY))
        monkeypatch.setattr(context, "Context", self._context)

    def _context(self, cuda, gpu=0):
        self._contexts.append(Context(cuda, gpu))
        return self._contexts[-1]

    def check(self):
        super().check()
        for made in self._contexts:
            with contextlib.suppress(self.driver.Error):
                made._primary.detach()
        self._contexts.clear()
        self.stacks.clear()  # detaching leaves a context on them

    def report(self):
        """Print what `check` would find, at the end of a process that has no test."""
        print(*self.lost, sep="\n", end="", file=sys.stderr)


@functools.cache
def shared_gpu() -> RealPycuda:
    """Return that of this process."""
    return RealPycuda()


if __name__ == "__main__":
    compile_shim(Path(sys.argv[1]))
