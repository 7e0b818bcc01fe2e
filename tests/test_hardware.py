"""Which device a name means here, with a torch that is made to see what other machines have."""

import re
from collections.abc import Callable

import pytest
import torch

from nasrepro.hardware import VARIABLE, DeviceError, device_name, resolve

See = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def sees(monkeypatch: pytest.MonkeyPatch) -> See:
    """Let torch see so many GPUs, as a build for a version of CUDA, or for none."""

    def see(gpus: int, cuda: str | None = "13.0") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU by the name of {device}")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", None)

    return see


@pytest.mark.parametrize(
    ("device", "gpus", "meant"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda:10", 11, "cuda:10"),
    ],
)
def test_what_a_device_means(device: str, gpus: int, meant: str, sees: See) -> None:
    sees(gpus)
    assert resolve(device) == meant
    assert str(torch.device(meant)) == meant
    assert resolve(meant) == meant


TORCH = f"torch {torch.__version__}"
CPU_BUILD = f"{TORCH} is installed as a build for processors alone: install its CUDA build, or choose auto or cpu"
NO_GPU = (
    f"{TORCH} sees no GPU here: see whether `nvidia-smi` lists one, and whether CUDA_VISIBLE_DEVICES hides it, "
    "or choose auto or cpu"
)
TWO = "torch sees 2 GPUs, cuda:0 to cuda:1: choose among these, or auto or cpu"
ONE = "torch sees one GPU, cuda:0: choose among these, or auto or cpu"


@pytest.mark.parametrize(
    ("device", "gpus", "cuda", "why"),
    [
        ("cuda", 0, None, CPU_BUILD),
        ("cuda:1", 0, "13.0", NO_GPU),
        ("cuda:3", 2, "13.0", TWO),
        ("cuda:1", 1, "13.0", ONE),
    ],
)
def test_a_gpu_that_is_not_here_is_one_sentence(device: str, gpus: int, cuda: str | None, why: str, sees: See) -> None:
    sees(gpus, cuda)
    with pytest.raises(DeviceError) as caught:
        resolve(device)
    said = f"device {device!r} was asked for, but {why}"
    assert str(caught.value) == said
    assert caught.value._render_traceback_() == [f"DeviceError: {said}"]  # all that a notebook shows


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:01", "cuda 1", "mps", "1", ""])
def test_an_unknown_device_is_answered_with_those_that_there_are(device: str, sees: See) -> None:
    sees(2)
    with pytest.raises(DeviceError, match=f"device '{device}' is unknown: choose auto, cpu, cuda, or cuda:N"):
        resolve(device)


def test_the_variable_says_what_auto_means_and_nothing_else(sees: See, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(2)
    for value, meant in (("cpu", "cpu"), ("cuda:1", "cuda:1"), ("auto", "cuda"), ("", "cuda")):
        monkeypatch.setenv(VARIABLE, value)
        assert resolve("auto") == meant
        assert resolve("cuda:0") == "cuda:0"
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(DeviceError, match="NASREPRO_DEVICE=gpu is unknown: choose auto"):
        resolve()
    monkeypatch.setenv(VARIABLE, "cuda:7")
    with pytest.raises(DeviceError, match="NASREPRO_DEVICE=cuda:7 was asked for, but torch sees 2 GPUs"):
        resolve()


def test_a_device_is_called_by_what_it_is(sees: See) -> None:
    sees(2)
    assert device_name("auto") == "a GPU by the name of cuda"
    assert device_name("cuda:1") == "a GPU by the name of cuda:1"
    assert device_name("cpu") == device_name()
    assert re.fullmatch(r".+, \d+ cores", device_name("cpu"))
    sees(0)
    assert device_name("auto") == device_name("cpu")


@pytest.mark.gpu
def test_a_real_gpu_is_found_and_named() -> None:
    assert resolve("auto") == "cuda"
    assert device_name("auto") == device_name("cuda:0") == torch.cuda.get_device_name(0)
