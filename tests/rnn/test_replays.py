"""Which calls of the fused CUDA backend are recorded as CUDA graphs, and which are forgotten: on a fake GPU."""

import random
from types import SimpleNamespace

import pytest
import torch

from nasrepro.rnn import recording
from nasrepro.rnn.fused import cuda
from tests.rnn.fake_gpu import CUDA, FakeGPU


class Bookkeeping:
    """Replays that hold nothing; `made` has the steps of the calls that one was made for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        FakeGPU(monkeypatch)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=8 * 100))
        monkeypatch.setattr(cuda, "_Replay", self._make)
        self.made: list[int] = []
        self.bytes = 1
        self.replays = cuda._Replays()

    def _make(self, cell: object, sizes: cuda._Sizes, given: object) -> SimpleNamespace:
        self.made.append(sizes.steps)
        return SimpleNamespace(bytes=lambda: self.bytes)

    def find(self, steps: int) -> SimpleNamespace | None:
        """The replay for a call of so many steps."""
        given = {"x": SimpleNamespace(device=CUDA)}
        return self.replays.find("cell", cuda._Sizes(steps, batch=4, hidden=8, input=8), given)


@pytest.fixture
def bookkeeping(monkeypatch: pytest.MonkeyPatch) -> Bookkeeping:
    return Bookkeeping(monkeypatch)


def test_a_third_call_is_recorded_and_the_oldest_are_forgotten(bookkeeping: Bookkeeping) -> None:
    bookkeeping.bytes = 40  # of a GPU's 800, an eighth of which is for replays: room for two
    assert [bookkeeping.find(5) is None for _ in range(4)] == [True, True, False, False]
    for steps in (6, 7):
        found = [bookkeeping.find(steps) for _ in range(4)]
        assert found[:2] == [None, None]
        assert found[2] is found[3] is not None
    assert [key[1].steps for key in bookkeeping.replays.kept] == [6, 7]


def test_every_size_of_a_data_set_of_sentences_is_recorded_once(bookkeeping: Bookkeeping) -> None:
    for epoch in range(13):  # Multi30k's batches of 64 come in 36 sizes
        for steps in random.Random(epoch).sample(range(1, 37), 36):
            bookkeeping.find(steps)
    assert sorted(bookkeeping.made) == list(range(1, 37))
    assert bookkeeping.replays.recorded == len(bookkeeping.replays.kept) == 36


@pytest.mark.parametrize("in_turn", [True, False])
def test_more_kinds_than_are_kept_are_not_recorded_over_and_over(in_turn: bool, bookkeeping: Bookkeeping) -> None:
    replays, kinds, rounds = bookkeeping.replays, range(1, 9), 600
    replays.most = 4
    for number in range(rounds):
        for steps in kinds if in_turn else random.Random(number).sample(kinds, len(kinds)):
            bookkeeping.find(steps)
    assert len(replays.kept) == 4
    # Without a wait it would be one at nearly every call in turn, 4,784 of them.
    assert len(bookkeeping.made) == replays.recorded <= len(kinds) * (1 + rounds / replays.wait)


def test_what_was_dropped_is_recorded_again_in_the_end(bookkeeping: Bookkeeping) -> None:
    bookkeeping.replays.most = 1
    for steps in (5, 6):
        for _ in range(3):
            bookkeeping.find(steps)
    waiting = [bookkeeping.find(5) is None for _ in range(bookkeeping.replays.wait + 3)]
    assert waiting == [True] * (bookkeeping.replays.wait + 2) + [False]
    assert bookkeeping.made == [5, 6, 5]


def test_sequences_of_very_many_steps_are_not_recorded(bookkeeping: Bookkeeping) -> None:
    most = bookkeeping.replays.most_steps
    for steps in (most, most + 1, 50_000):
        assert (bookkeeping.find(steps), bookkeeping.find(steps)) == (None, None)
        assert (bookkeeping.find(steps) is None) == (steps > most)
    assert bookkeeping.made == [most]


def test_nothing_is_recorded_inside_a_graph_or_once_it_has_failed(
    bookkeeping: Bookkeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin()
    assert [bookkeeping.find(5) for _ in range(5)] == [None] * 5
    with pytest.warns(UserWarning, match="empty"):
        graph.capture_end()
    with recording.part_of_another():
        assert [bookkeeping.find(5) for _ in range(5)] == [None] * 5
    monkeypatch.setattr(recording.Recording, "possible", False)
    assert [bookkeeping.find(5) for _ in range(5)] == [None] * 5
