"""Whether the CUDA backend computes what it should: tests marked `gpu`, and errors of cells against float64."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import torch
from gpu_parts import PartFailed
from torch import Tensor, nn

import nasrepro as nr

ROOT = Path(__file__).resolve().parents[1]
LOG = "gpu.log"  # what the tests print, in the folder of the results
_PLUGINS = ("pytest_timeout", "_hypothesis_pytestplugin")  # those that the settings in pyproject.toml need


def gpu_tests(select: str, _device: str, _small: bool, folder: Path) -> pd.DataFrame:
    """Run the tests marked `gpu` whose names fit `select` (pytest's -k); their output is added to the log.

    Raises PartFailed, which names them, where tests fail, and where pytest cannot run them.
    """
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8")]
    return run_tests(sorted(files), ["-m", "gpu", "-k", select], folder)


def run_tests(files: list[Path], options: list[str], folder: Path) -> pd.DataFrame:
    """Run tests in a process of its own; one row: how many passed, failed and were skipped, and which failed.

    Of the plugins that are installed only those are loaded that the project needs: its tests take warnings for errors,
    and another machine's plugins warn. Tests that start pytest themselves inherit this.
    """
    report = folder / "work" / "tests.xml"
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    plugins = " ".join(f"-p {name}" for name in _PLUGINS if importlib.util.find_spec(name))
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": plugins}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *options]
    with (folder / LOG).open("a", encoding="utf-8") as log:
        status = _run(command + [str(path) for path in files], environment, log.fileno())
    if not report.exists():
        raise PartFailed(f"pytest ended with status {status} and no report; see {LOG}", pd.DataFrame())
    row = _counts(report)
    if status:
        raise PartFailed(
            f"{row['failed']} of {row['tests']} tests failed (pytest's status {status}; see {LOG}): {row['failing']}",
            pd.DataFrame([row]),
        )
    return pd.DataFrame([row])


def _run(command: list[str], environment: dict[str, str], log: int) -> int:
    """The exit status of a command. When this is interrupted, the command and all that it started end too."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _counts(report: Path) -> dict[str, str | int]:
    """What pytest's JUnit report says."""
    cases = list(ET.parse(report).iter("testcase"))
    failing = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "tests": len(cases),
        "passed": len(cases) - len(failing) - skipped,
        "skipped": skipped,
        "failed": len(failing),
        "failing": ", ".join(f"{case.get('classname')}::{case.get('name')}" for case in failing),
    }


def checks(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Relative errors of every fused zoo cell against float64 on the CPU; the worst of all gradients.

    Where ReLU or Max has its kink, rounding may choose the other side, and a gradient jumps though no value does. By
    float32, NASCell's errs by 0.0035, on a GPU as on the processor: at one of 280,000 arguments of ReLU (step 19,
    column 16), which is -4e-8. By TF32, NASCell's and MaxSin's err by 0.009; weights changed at random by as much as
    TF32 rounds change float64's own gradients by 0.01.
    """
    size, steps, batch = (8, 5, 2) if small else (200, 35, 20)
    x = torch.randn(steps, batch, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = []
    for name, cell in nr.zoo.items():
        exact = nr.RNN(cell, size, size, generator=torch.Generator().manual_seed(0)).double()
        expected = _values(exact, x)
        for products in ("float32", "TF32", "bfloat16"):
            fused = nr.RNN(cell, size, size, product_dtype=torch.bfloat16 if products == "bfloat16" else torch.float32)
            fused.load_state_dict(exact.state_dict())
            fused.to(device)
            with tf32(products == "TF32"):
                found = _values(fused, x.to(device, torch.float32))
            value, *gradients = (_relative(e, f) for e, f in zip(expected, found, strict=True))
            rows.append({"cell": name, "products": products, "value error": value, "gradient error": max(gradients)})
    return pd.DataFrame(rows)


def _values(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of x and every parameter."""
    x = x.clone().requires_grad_()
    out, _ = module(x)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])]


def _relative(exact: Tensor, found: Tensor) -> float:
    return float((found.detach().double().cpu() - exact.detach()).norm() / exact.detach().norm().clamp_min(1e-30))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let cuDNN and cuBLAS alike round what they multiply to TF32, or not."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = allowed
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
