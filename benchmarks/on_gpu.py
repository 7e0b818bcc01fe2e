"""Everything that only a GPU can show, in one call: checks, times, and a table.

    python benchmarks/on_gpu.py --out FOLDER                 # on a machine with CUDA, a few minutes
    python benchmarks/on_gpu.py --out FOLDER --device cpu --small    # the same steps anywhere, in seconds

1. The tests that are marked `gpu` (only with CUDA).
2. Every zoo cell on the device against float64 on the CPU: relative error of values and gradients.
3. One layer, forward and backward, interleaved with torch.nn.LSTM: medians and spread.
4. The paper's candidate model (2 x 200 units, 33,278 words): forecast of one cell's 40 epochs, by cell.

Writes checks.csv, layers.csv, forecast.csv and device.json to FOLDER; each run replaces what is there.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import nasrepro as nr
from nasrepro.hardware import device_name
from nasrepro.report.provenance import commit, versions
from nasrepro.rnn.timing import benchmark
from nasrepro.trainers.forecast import WIKITEXT2, forecast_seconds
from nasrepro.trainers.language_model import LanguageModelSettings

CELLS = ["LSTM", "GRU", "BC3", "NASCell"]


def main() -> None:
    """Run every part and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that everything runs, times nothing")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --small tries the script without one")
    options.out.mkdir(parents=True, exist_ok=True)

    device = device_name(options.device)
    facts = {"device": device, "commit": commit(), "versions": versions(), "small": options.small}
    if options.device == "cuda":
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
        facts["gpu tests"] = subprocess.run(command, check=False).returncode
    (options.out / "device.json").write_text(json.dumps(facts, indent=1) + "\n")
    for name, table in {"checks": checks, "layers": layers, "forecast": forecast}.items():
        frame = table(options.device, options.small)
        frame.insert(0, "device", device)
        frame.to_csv(options.out / f"{name}.csv", index=False)
        print(frame.to_string(index=False), flush=True)


def checks(device: str, small: bool) -> pd.DataFrame:
    """Relative errors of every zoo cell on the device against float64 on the CPU, over 35 steps."""
    size, steps, batch = (8, 5, 2) if small else (200, 35, 20)
    rows = []
    for name in nr.zoo:
        for dtype in (torch.float32, torch.bfloat16):
            exact = nr.RNN(nr.zoo[name], size, size, generator=torch.Generator().manual_seed(0)).double()
            low = nr.RNN(nr.zoo[name], size, size).to(device, dtype)
            low.load_state_dict(exact.state_dict())
            x = torch.randn(steps, batch, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            out, low_out = exact(x)[0], low(x.to(device, dtype))[0]
            out.sum().backward()
            low_out.sum().backward()
            gradients = [(p.grad, q.grad) for p, q in zip(exact.parameters(), low.parameters(), strict=True)]
            rows.append(
                {
                    "cell": name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "value error": _relative(out, low_out),
                    "gradient error": max(_relative(p, q) for p, q in gradients if p is not None and q is not None),
                }
            )
    return pd.DataFrame(rows)


def layers(device: str, small: bool) -> pd.DataFrame:
    """Milliseconds of one layer, forward and backward, beside torch.nn.LSTM in the same rounds."""
    sizes = [(8, 2, 5)] if small else [(200, 20, 35), (650, 20, 35), (1150, 20, 70)]
    rows = []
    for size, batch, steps in sizes:
        x = torch.randn(steps, batch, size, device=device, requires_grad=True)
        variants = {"torch.nn.LSTM": _step(nn.LSTM(size, size).to(device), x, device)}
        variants |= {name: _step(nr.RNN(nr.zoo[name], size, size).to(device), x, device) for name in CELLS}
        seconds = benchmark(variants, rounds=2 if small else 15, clock=lambda: _clock(device))
        base = pd.Series(seconds["torch.nn.LSTM"])
        for name, times in seconds.items():
            part = pd.Series(times)
            rows.append(
                {
                    "H": size,
                    "B": batch,
                    "T": steps,
                    "layer": name,
                    "median ms": 1000 * part.median(),
                    "min ms": 1000 * part.min(),
                    "max ms": 1000 * part.max(),
                    "over nn.LSTM": (part / base).median(),
                }
            )
    return pd.DataFrame(rows)


def forecast(device: str, small: bool) -> pd.DataFrame:
    """Hours that one candidate would take by S17's settings, from a few steps."""
    settings = LanguageModelSettings(hidden=8, embedding=8) if small else LanguageModelSettings()
    rows = [
        {"cell": name, "hours": forecast_seconds(nr.zoo[name], settings, WIKITEXT2, 1 if small else 5, device) / 3600}
        for name in CELLS
    ]
    return pd.DataFrame(rows)


def _step(module: nn.Module, x: torch.Tensor, device: str) -> Callable[[], None]:
    def forward_and_backward() -> None:
        out, _ = module(x)
        out.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return forward_and_backward


def _clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _relative(exact: torch.Tensor, low: torch.Tensor) -> float:
    return float((low.detach().double().cpu() - exact.detach()).norm() / exact.detach().norm().clamp_min(1e-30))


if __name__ == "__main__":
    main()
