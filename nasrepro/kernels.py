"""Running a notebook outside JupyterLab: by the Python that was called, whatever kernels and settings a user has."""

import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import ValidationError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from nasrepro.deadline import TimeIsUp


def run_notebook(path: Path, out: Path, parameters: Mapping[str, Any]) -> None:
    """Run a notebook in the folder where it lies, and write it to `out` with what it shows, as far as it comes.

    Raises ValueError for a file that is no notebook; RuntimeError where a cell fails or the kernel does not live;
    TimeIsUp where the notebook has stopped at a deadline.
    """
    source = _as_papermill_takes_it(_checked(path))
    # Everything a kernel writes for itself lies in a folder of its own. IPython's settings are of one user, and files
    # of theirs would run before the notebook does: they are not read.
    with tempfile.TemporaryDirectory(prefix="nasrepro-", ignore_cleanup_errors=True) as private:
        try:
            done = papermill.execute_notebook(
                source,
                _as_papermill_takes_it(out),
                parameters=dict(parameters),
                cwd=str(path.parent),
                kernel_name=NATIVE_KERNEL_NAME,
                kernel_manager_class=_ThisPython,
                config=_connection(Path(private)),
                extra_arguments=[f"--ipython-dir={private}"],
            )
        except PapermillExecutionError as error:
            if error.ename == TimeIsUp.__name__:
                raise TimeIsUp(error.evalue) from None
            raise RuntimeError(
                f"{path.name} stopped in cell {error.cell_index}: {error.ename}: {error.evalue}\n"
                f"the notebook as far as it came: {out}"
            ) from None
        except DeadKernelError:
            raise RuntimeError(
                f"the process that ran {path.name} died; too little memory is the usual cause\n"
                f"the notebook as far as it came: {out}"
            ) from None
        except RuntimeError as error:
            raise RuntimeError(f"no process could be started to run {path.name} ({error}); see above why") from None
    for number, cell in enumerate(done.cells):  # papermill takes sys.exit() for a good end
        if any(output.get("ename") == "SystemExit" for output in cell.get("outputs", ())):
            raise RuntimeError(f"{path.name} ended itself in cell {number}; what stands below it was not run")


def parameters_of(path: Path) -> list[str]:
    """The names of a notebook's parameters. Raises ValueError for a file that is no notebook."""
    return list(papermill.inspect_notebook(_as_papermill_takes_it(_checked(path))))


def _checked(path: Path) -> Path:
    try:
        nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    except (ValueError, AttributeError, KeyError, ValidationError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(f"{path} is no notebook, or damaged: {reason}; put an intact copy there") from None
    return path


def _as_papermill_takes_it(path: Path) -> str:
    """papermill puts parameters where a path has braces; doubled ones are braces that belong to it."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _ThisPython(AsyncKernelManager):
    """Starts this very Python. A user's own kernel of the same name may be another one, or of one that is gone."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])  # that leaves ipykernel's own, which is of this Python

    def start_kernel(self, **options: Any) -> Any:
        """Start it with Jupyter's folders beside its connection file: a user without a home folder has none."""
        private = Path(self.connection_file).parent
        folders = {f"JUPYTER_{kind}_DIR": str(private / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
        return super().start_kernel(env=os.environ | folders, **options)


def _connection(folder: Path) -> Config:
    """How to talk to a kernel: by sockets in the folder, which nobody else can use, or else by TCP."""
    config = Config()
    config.KernelManager.connection_file = str(folder / "kernel.json")
    if _holds_sockets(folder):
        config.KernelManager.transport = "ipc"
        config.KernelManager.ip = str(folder / "socket")  # each is known by this and a number
    return config


def _holds_sockets(folder: Path) -> bool:
    """Windows has none, some file systems hold none, and the path of one may be no longer than some 100 characters."""
    if not hasattr(socket, "AF_UNIX"):
        return False
    probe = folder / "socket-00"
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(probe))
        probe.unlink()
    except OSError:
        return False
    return True
