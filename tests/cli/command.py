"""What the tests of the command share."""

import pytest

from nasrepro import cli


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on standard error when it refuses."""
    assert cli.main(arguments) == 1
    _, said, message = capsys.readouterr().err.partition("nasrepro: ")  # a bar of progress may stand before it
    assert said
    assert "Traceback" not in message
    return message


def see_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASREPRO_DEVICE")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"a GPU by the name of {device}")
