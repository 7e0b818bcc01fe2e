"""Where computations run: which device a name means on this machine, and what it is called.

--device, DEVICE= for make, DEVICE in a notebook -> `resolve` -> `experiments.experiment.on_device`
-> the tasks -> every row

Only what asks about GPUs loads torch: a record is read without it.
"""

import os
import platform
import re
from functools import cache
from pathlib import Path

from nasrepro.errors import MachineError

VARIABLE = "NASREPRO_DEVICE"
"""The environment variable that says what "auto" means, for all that a shell starts."""


class DeviceError(MachineError, ValueError):
    """A device that this machine does not have: what was asked for, what torch sees, and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback, of which no line would help."""
        return [f"{type(self).__name__}: {self}"]


def resolve(device: str = "auto") -> str:
    """The torch device that "auto", "cpu", "cuda" or "cuda:N" means here: the same, or "cpu" or "cuda" for "auto".

    "auto" is what NASREPRO_DEVICE says, else CUDA where torch sees one, else the processor. Raises DeviceError for any
    other name, and for a GPU that torch does not see.
    """
    asked = f"device {device!r:.100}"
    if device == "auto" and os.environ.get(VARIABLE):
        device = os.environ[VARIABLE]
        asked = f"{VARIABLE}={device}"
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    named = re.fullmatch("cuda(?::(0|[1-9][0-9]*))?", str(device))
    if named is None:
        raise DeviceError(f"{asked} is unknown: choose auto, cpu, cuda, or cuda:N for the GPU of that number")
    if not torch.cuda.is_available():
        raise DeviceError(f"{asked} was asked for, but {why_no_cuda()}, or choose auto or cpu")
    count = torch.cuda.device_count()
    if named[1] is not None and int(named[1]) >= count:
        seen = "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise DeviceError(f"{asked} was asked for, but torch sees {seen}: choose among these, or auto or cpu")
    return device


def why_no_cuda() -> str:
    """Why torch offers no GPU, and what to do about it."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is installed as a build for processors alone: install its CUDA build"
    return (
        f"torch {torch.__version__} sees no GPU here: see whether `nvidia-smi` lists one, and whether "
        "CUDA_VISIBLE_DEVICES hides it"
    )


def device_name(device: str = "cpu") -> str:
    """The name of the GPU that a device means, else the processor's with its number of cores. Raises DeviceError."""
    found = resolve(device)
    if found == "cpu":
        return f"{_processor()}, {os.cpu_count()} cores"
    import torch

    return torch.cuda.get_device_name(found)


@cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
