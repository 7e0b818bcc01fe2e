"""The C library of the fused backend: functions, products, every build of them, sanitizers, floating-point modes."""

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import nasrepro as nr
from nasrepro import native
from nasrepro.native import build
from nasrepro.rnn.fused import cpu
from tests.rnn.problem import MIXED, Problem, assert_exact, error

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler on this machine")


def _processor_has(isa: str) -> bool:
    if isa == "native" or isa == "plain":
        return True
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.exists() else set()
    needed = {"avx2": {"avx2", "fma", "bmi2"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}}
    return needed[isa] <= flags


BUILDS = [
    pytest.param(
        compiler, isa, marks=pytest.mark.skipif(not _processor_has(isa), reason=f"this processor has no {isa}")
    )
    for compiler, isa in itertools.product(COMPILERS, ("avx512", "avx2", "plain"))
]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch):
    """Makes everything be compiled by one compiler, for one kind of processor, with more arguments."""
    original = native.load

    def install(compiler: str, isa: str, flags: tuple[str, ...] = ()) -> Callable[..., ctypes.CDLL]:
        def load(source: str, flags: tuple[str, ...] = (), more: tuple[str, ...] = flags) -> ctypes.CDLL:
            return original(source, isa=isa, flags=[*flags, *more])

        monkeypatch.setenv("CC", compiler)
        monkeypatch.setattr(build, "_loaded", {})
        monkeypatch.setattr(native, "load", load)
        forget()
        return load

    def forget() -> None:
        cpu.driver.cache_clear()
        cpu.kernels.cache_clear()

    yield install
    forget()


# --- elementwise functions -----------------------------------------------------------------------------------

SPECIAL = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-38, -1e-38, 3e38, -3e38, 89, -89, 104])


def _grid() -> torch.Tensor:
    """Floats of all sizes and both signs; densest where the functions bend."""
    sizes = torch.logspace(-30, 4, 4000, dtype=torch.float64).float()
    dense = torch.linspace(-100, 100, 60_001)
    return torch.cat((SPECIAL, sizes, -sizes, dense, 1e30 * sizes, torch.linspace(8180, 8200, 999)))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _logistic(a: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + (-a).exp())


# Of the exact argument a, in float64.
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": _logistic,
    "sigmoid_slope": lambda a: _logistic(a) * _logistic(-a),
    "sigmoid_rest": lambda a: _logistic(-a),
    "tanh_": torch.tanh,
    "tanh_slope": lambda a: 1 / a.cosh() ** 2,
    "sin_": torch.sin,
    "cos_": torch.cos,
    "selu": lambda a: SELU_SCALE * torch.where(a > 0, a, SELU_ALPHA * torch.expm1(a)),
    "selu_slope": lambda a: SELU_SCALE * torch.where(a > 0, 1.0, SELU_ALPHA * a.exp()),
    "relu": lambda a: a.clamp_min(0),
}
ABSOLUTE = {"sin_", "cos_"}


@pytest.mark.parametrize(("compiler", "isa"), BUILDS)
def test_functions_are_accurate(compiler: str, isa: str, use) -> None:
    source = '#include "functions.h"\n' + "".join(
        f"void all_{name}(const float *a, float *y, long n) {{"
        f" for (long i = 0; i < n; i += LANES) store(y + i, {name}(load(a + i, n - i)), n - i); }}\n"
        for name in FUNCTIONS
    )
    library = use(compiler, isa)(source)
    a = _grid()
    for name, function in FUNCTIONS.items():
        found = torch.empty_like(a)
        getattr(library, f"all_{name}")(
            ctypes.c_void_p(a.data_ptr()), ctypes.c_void_p(found.data_ptr()), ctypes.c_long(len(a))
        )
        exact = function(a.double()).nan_to_num(posinf=torch.inf) if name == "tanh_slope" else function(a.double())
        if name == "tanh_slope":
            exact = torch.where(a.isnan(), a.double(), exact)
        assert torch.equal(found.isnan(), exact.isnan()), name
        infinite = exact.abs() > torch.finfo(torch.float32).max
        torch.testing.assert_close(found[infinite], exact[infinite].float(), equal_nan=True)
        inside = ~infinite & ~exact.isnan()
        off = (found.double() - exact).abs()[inside]
        # Relative, down to the smallest normal floats, below which results may be flushed to zero.
        size = 1.0 if name in ABSOLUTE else exact.abs()[inside].clamp_min(4 * torch.finfo(torch.float32).tiny / 2e-7)
        assert float((off / size).max()) <= 4e-7, (name, a[inside][(off / size).argmax()])


# --- products ------------------------------------------------------------------------------------------------

_PRODUCT = """
#include "gemm.h"
long needed(long k, long n) { return packed_size(k, n) + scratch_size() + 64; }
long product(long rows, long k, long n, const float *a, long a_row, long a_column, const float *b, long b_row,
             long b_column, float *c, long ldc, long accumulate, const float *bias, float *memory) {
    float *packed = memory, *end = memory + packed_size(k, n), *scratch = memory + round_up(packed_size(k, n) + 1, 16);
    *end = 12345;
    begin_products();
    pack(b, b_row, b_column, k, n, packed, 0, panel_count(n));
    const long kept_to_its_room = *end == 12345;
    const long half = panel_count(n) / 2; /* as two threads would */
    multiply(rows, k, a, a_row, a_column, packed, n, 0, half, c, ldc, accumulate, bias, scratch);
    multiply(rows, k, a, a_row, a_column, packed, n, half, panel_count(n), c, ldc, accumulate, bias, scratch);
    end_products();
    return kept_to_its_room;
}
"""


@pytest.mark.parametrize(("compiler", "isa"), [*BUILDS, (COMPILERS[0] if COMPILERS else "", "native")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products(compiler: str, isa: str, dtype: torch.dtype, use) -> None:
    flags = ("-DPRODUCTS_BF16",) if dtype == torch.bfloat16 else ()
    if isa == "native":
        flags += ("-DWITHOUT_TILES",)  # asking for tile registers is the driver's business
    library = use(compiler, isa)(_PRODUCT, flags=flags)
    library.needed.restype = ctypes.c_long
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 1, 1), (3, 17, 15), (13, 31, 33), (14, 16, 32), (15, 100, 17), (29, 1100, 65), (113, 7, 3), (2, 0, 5)]
    sizes += [(14, 9, 8), (15, 34, 40), (5, 3, 16), (29, 34, 48)]  # last panels of a whole half vector, a whole vector
    sizes += [(3, 2401, 5), (15, 4833, 17)]  # more depth than is worked through at a time, of float32 and of bfloat16
    for (rows, k, n), a_turned, b_turned, accumulate in itertools.product(sizes, (0, 1), (0, 1), (0, 1)):
        a, b = torch.randn(rows, k, generator=generator), torch.randn(k, n, generator=generator)
        bias, start = torch.randn(n, generator=generator), torch.randn(rows, n + 3, generator=generator)
        a, b = (m.t().contiguous().t() if turned else m for m, turned in ((a, a_turned), (b, b_turned)))
        c, memory = start.clone(), np.zeros(library.needed(ctypes.c_long(k), ctypes.c_long(n)) + 16, np.float32)
        aligned = (memory.ctypes.data + 63) // 64 * 64
        kept_to_its_room = library.product(
            *(ctypes.c_long(size) for size in (rows, k, n)),
            ctypes.c_void_p(a.data_ptr()), ctypes.c_long(a.stride(0)), ctypes.c_long(a.stride(1)),
            ctypes.c_void_p(b.data_ptr()), ctypes.c_long(b.stride(0)), ctypes.c_long(b.stride(1)),
            ctypes.c_void_p(c.data_ptr()), ctypes.c_long(n + 3), ctypes.c_long(accumulate),
            ctypes.c_void_p(bias.data_ptr()), ctypes.c_void_p(aligned),
        )  # fmt: skip
        assert kept_to_its_room == 1
        rounded = [m.to(dtype).double() for m in (a, b)]
        exact = rounded[0] @ rounded[1] + bias.double() + accumulate * start[:, :n].double()
        if k:  # with nothing to add up, nothing is written; layers are at least one unit wide
            # Rounding grows with the length of a sum, as its root.
            assert error(c[:, :n], exact) <= 1e-6 * max(1, k / 1000) ** 0.5, (
                rows,
                k,
                n,
                a_turned,
                b_turned,
                accumulate,
            )
        assert torch.equal(c[:, n:], start[:, n:])  # nothing beyond the columns is touched


# --- the whole driver ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compiler", "isa"), BUILDS)
def test_builds_for_other_processors_give_the_same(compiler: str, isa: str, use) -> None:
    use(compiler, isa)
    lengths = torch.tensor([3, 1, 2])
    for cell, size in ((nr.zoo["LSTM"], 19), (MIXED, 33)):
        problem = Problem(cell, size, size, 3, 3)
        assert_exact(problem)
        assert_exact(problem, lengths=lengths)
        ours = problem.solve("fused", torch.float32, torch.bfloat16)
        rounded = problem.solve("reference", torch.float32, torch.bfloat16)
        # Forward both round the same numbers; backward ours also rounds gradients that enter products.
        assert error(ours["out"], rounded["out"]) <= 1e-3


_PROBE = """
void modes(unsigned *found, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int i = 0; i < threads; i++) found[i] = __builtin_ia32_stmxcsr();
}
"""


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists() or os.uname().machine != "x86_64", reason="x86-64 alone has it")
def test_floating_point_modes_stay_as_they_were() -> None:
    def modes() -> list[int]:
        found = (ctypes.c_uint * 2)()
        native.load(_PROBE).modes(found, 2)
        return [mode & 0xFFC0 for mode in found]  # without the flags that say what happened

    tiny = torch.full((1000,), 1e-40)
    before = modes()
    assert not any(mode & 0x8040 for mode in before)
    Problem(nr.zoo["LSTM"], 20, 20, 20, 5).solve("fused", torch.float32)
    assert modes() == before
    assert float((tiny * 1).min()) > 0  # torch still has small numbers


# --- sanitizers ------------------------------------------------------------------------------------------------

_SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")


def _sanitized(script: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with all C code built by gcc under AddressSanitizer and UndefinedBehaviorSanitizer."""
    if "gcc" not in COMPILERS:
        pytest.skip("sanitizers are run with gcc")
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(map(os.path.isabs, libraries)):
        pytest.skip("gcc has no libasan or libubsan here")
    isa = next(isa for isa in ("avx512", "avx2", "plain") if _processor_has(isa))
    header = f"""
import torch
from nasrepro import native
from nasrepro.native import scratch
scratch._MOST_FREE = 0  # every call gets memory of its own, as long as it asked for: an overrun of it is seen
original = native.load
def load(source, flags=()):
    return original(source, isa={isa!r}, flags=[*flags, *{_SANITIZE!r}])
native.load = load
torch.set_num_threads(2)
"""
    environment = os.environ | {
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "CC": "gcc",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.run(
        [sys.executable, "-c", header + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


_RUNS = """
import nasrepro as nr
from nasrepro.rnn.fused import cpu
from tests.rnn.problem import MIXED, Problem
native.CORES = 2
for cell in (nr.zoo["LSTM"], MIXED):
    for hidden, B, T in ((1, 1, 1), (33, 9, 3)):
        for rows_per_thread in (0, 1000):
            cpu._ROWS_PER_THREAD = rows_per_thread
            problem = Problem(cell, hidden, hidden, B, T)
            problem.solve("fused", torch.float32)
            problem.solve("fused", torch.float32, torch.bfloat16)
        problem.solve("fused", torch.float32, lengths=torch.arange(B) % T + 1)
for cell in (nr.zoo["BC3"], nr.zoo["MT5"]):  # they multiply values of a step
    Problem(cell, 33, 33, 9, 12).solve("fused", torch.float32, lengths=torch.arange(9) + 4)
from nasrepro.trainers import linear_cross_entropy as module
for rows, words in ((1, 7), (61, 500)):
    for module._LOGIT_BYTES in (4 * 500 * 20, 2**26):
        parts = [torch.randn(rows, 33), torch.randn(words, 33), torch.randn(words)]
        parts = [part.requires_grad_() for part in parts]
        module.linear_cross_entropy(*parts, torch.arange(rows) % words).backward()
print("finished")
"""


@pytest.mark.slow
def test_sanitizers_find_nothing() -> None:
    result = _sanitized(_RUNS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "finished" in result.stdout


def test_sanitizers_would_find_an_overrun() -> None:
    result = _sanitized(
        """
import ctypes
overrun = '#include "vec.h"\\nvoid overrun(const float *a, float *b, long n) { store(b, load(a, n + 1), n); }\\n'
a, b = torch.zeros(3), torch.zeros(3)
native.load(overrun).overrun(ctypes.c_void_p(a.data_ptr()), ctypes.c_void_p(b.data_ptr()), ctypes.c_long(3))
"""
    )
    assert "AddressSanitizer" in result.stderr, result.stderr
