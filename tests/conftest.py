"""What every test shares: where real data may lie, one device, quiet figures, repeatable inputs, the gpu marker."""

import os
import signal
from pathlib import Path

import hypothesis
import matplotlib as mpl
import pytest
import torch

from nasrepro.files import fix_environment
from nasrepro.native import CORES

ROOT = Path(__file__).resolve().parents[1]

# A checkout may stand beside a folder of real data sets. It is set in the environment, not by a fixture,
# so that the processes and notebooks that tests start see it too; whoever has set it knows better.
if "NASREPRO_MIRROR" not in os.environ and (ROOT.parent / "shared" / "data").is_dir():
    os.environ["NASREPRO_MIRROR"] = str(ROOT.parent / "shared" / "data")
fix_environment()  # relative paths are those of the folder that pytest was started in

# What a test trains without naming a device trains on the processor, in the processes that it starts too: else its
# numbers would change with the machine. Tests marked `gpu` name theirs.
os.environ["NASREPRO_DEVICE"] = "cpu"

# Set for this process alone: through MPLBACKEND it would also reach notebooks and hide their figures.
mpl.use("Agg")

# A shell that starts something in the background lets it ignore Ctrl-C, and so would every process that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The smallest machine we promise anything for has two cores; more threads also change the order of sums.
torch.set_num_threads(2)

# No deadline: a busy machine is slow at times, and that is no defect. In CI every run draws the same inputs.
hypothesis.settings.register_profile("default-nasrepro", deadline=None)
hypothesis.settings.register_profile("ci-nasrepro", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci-nasrepro" if os.environ.get("CI") else "default-nasrepro")


@pytest.hookimpl(optionalhook=True)  # pytest-xdist is not installed everywhere
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `--numprocesses auto` means: each needs a core, and a gigabyte or two of memory."""
    return min(CORES, 4)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where torch sees no CUDA device, and let several processes begin with slow files."""
    if hasattr(config, "workerinput"):  # of pytest-xdist: all processes but one would wait for what is begun last
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device on this machine"))


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real data sets, laid out as NAME/FILE; the test is skipped where there is none."""
    folder = os.environ.get("NASREPRO_MIRROR", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real data here: set NASREPRO_MIRROR to a folder laid out as NAME/FILE")
    return Path(folder)
