"""What a computation ran on, in words."""

import os
import platform
from functools import cache
from pathlib import Path

import torch


@cache
def device_name(kind: str = "cpu") -> str:
    """The name of the accelerator for `kind` "cuda...", else the processor's with its number of cores."""
    if kind.startswith("cuda"):
        return torch.cuda.get_device_name(kind)
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
