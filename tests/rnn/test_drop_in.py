"""What torch.nn.LSTM takes, gives and lets others do to it, done with a layer of a cell."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import nasrepro as nr
from nasrepro.rnn import RNN, State
from tests.rnn.test_against_torch import CASES, _copy

T, B, IN, H, LAYERS = 6, 3, 5, 4, 2
ALL = "Tanh(Add(MM(x_{t-1}), Add(MM(PosEnc), Add(MM(h_{t-1}), MM(c_{t-1})))))|6"  # every source that a state keeps


def _pair(name: str, **options: bool) -> tuple[RNN, nn.RNNBase]:
    """A layer and torch's own, of equal weights."""
    module, rows, signs = CASES[name]
    theirs = module(IN, H, LAYERS, **options).double()
    ours = nr.RNN(nr.zoo[name], IN, H, LAYERS, **options).double()
    _copy(ours, theirs, rows, signs)
    return ours, theirs


def _input(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _parts(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _assert_equal(ours: object, theirs: object) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


# --- what goes in and comes out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("lengths", [[3, 6, 1], [6, 4, 2], [1, 1, 1]])
@pytest.mark.parametrize("given", [False, True])
def test_packed_sequences(name: str, lengths: list[int], given: bool) -> None:
    ours, theirs = _pair(name)
    enforce_sorted = sorted(lengths, reverse=True) == lengths
    leaves = [_input(T, B, IN).requires_grad_() for _ in range(2)]
    packed = [pack_padded_sequence(leaf, torch.tensor(lengths), enforce_sorted=enforce_sorted) for leaf in leaves]
    start = _input(LAYERS, B, H)
    state = None if not given else (start, start.flip(0)) if name == "LSTM" else start
    (out, after), (expected, expected_after) = ours(packed[0], state), theirs(packed[1], state)
    assert isinstance(out, PackedSequence)
    _assert_equal(out.data, expected.data)
    assert torch.equal(out.batch_sizes, expected.batch_sizes)
    for permutation in ("sorted_indices", "unsorted_indices"):
        found, wanted = getattr(out, permutation), getattr(expected, permutation)
        assert (found is None and wanted is None) or torch.equal(found, wanted)
    _assert_equal(tuple(after), _parts(expected_after))
    for result in (out, expected):
        (result.data * torch.arange(result.data.numel()).reshape(result.data.shape)).sum().backward()
    _assert_equal(leaves[0].grad, leaves[1].grad)


def test_a_packed_sequence_of_another_width_or_with_lengths_is_refused() -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], IN, H)
    with pytest.raises(ValueError, match=r"x must be \(T, B, 5\)"):
        rnn(pack_sequence([torch.zeros(3, 4)]))
    with pytest.raises(ValueError, match="leave out lengths"):
        rnn(pack_sequence([torch.zeros(3, IN)]), lengths=[3])


@pytest.mark.parametrize("name", CASES)
def test_batch_first(name: str) -> None:
    ours, theirs = _pair(name, batch_first=True)
    state = _input(LAYERS, B, H)
    state = (state, state) if name == "LSTM" else state
    for x, before in ((_input(B, T, IN), None), (_input(B, T, IN), state), (_input(T, IN), None)):
        (out, after), (expected, expected_after) = ours(x, before), theirs(x, before)
        _assert_equal(out, expected)
        _assert_equal(tuple(after), _parts(expected_after))
    packed = pack_padded_sequence(_input(B, T, IN), torch.tensor([6, 4, 2]), batch_first=True)
    _assert_equal(ours(packed)[0].data, theirs(packed)[0].data)
    with pytest.raises(ValueError, match=r"x must be \(B, T, 5\) with T, B >= 1, got \(3, 6, 4\)"):
        ours(_input(B, T, 4))
    assert ours.batch_first
    assert not nr.RNN(nr.zoo[name], IN, H).batch_first


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, lambda n: torch.tensor(n, dtype=torch.int32)])
def test_lengths_of_any_kind_give_what_packed_sequences_give(kind) -> None:
    ours, theirs = _pair("LSTM")
    lengths = [6, 4, 2]
    expected, expected_after = theirs(pack_padded_sequence(_input(T, B, IN), torch.tensor(lengths)))
    padded, _ = nn.utils.rnn.pad_packed_sequence(expected)
    out, after = ours(_input(T, B, IN), lengths=kind(lengths))
    _assert_equal(out, padded)
    _assert_equal(tuple(after), expected_after)
    with torch.device("meta"):
        _assert_equal(ours(_input_on_cpu(), lengths=kind(lengths) if kind in (list, tuple) else lengths)[0], padded)


def _input_on_cpu() -> Tensor:
    with torch.device("cpu"):
        return _input(T, B, IN)


@pytest.mark.parametrize("lengths", [[6, 4], [6, 4, 7], [6, 0, 2], [6.0, 4.0, 2.0], [[6, 4, 2]], [True, True, True]])
@pytest.mark.parametrize("kind", [list, str, lambda lengths: list(map(str, lengths))])
def test_wrong_lengths(lengths: list, kind: Callable[[list], Any]) -> None:
    with pytest.raises(ValueError, match="lengths must be 3 whole numbers from 1 to 6, got"):
        nr.RNN(nr.zoo["LSTM"], IN, H)(torch.zeros(T, B, IN), lengths=kind(lengths))


# --- the state ----------------------------------------------------------------------------------------------------


def test_a_state_is_the_tuple_of_its_parts() -> None:
    _, state = nr.RNN(nr.zoo["LSTM"], IN, H)(torch.zeros(T, B, IN))
    assert isinstance(state, tuple)
    assert len(state) == 2
    assert state[0] is state.h
    assert state[-1] is state.c
    assert state[:1] == (state.h,)
    assert state.x is None
    _, state = nr.RNN(nr.zoo["GRU"], IN, H)(torch.zeros(T, B, IN))
    assert len(state) == 1
    with pytest.raises(AttributeError, match="immutable: cannot set h"):
        state.h = state.h


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_copies_of_a_state_keep_names_and_time(again) -> None:
    rnn = nr.RNN(ALL, IN, H, 2, last_size=3)
    with torch.no_grad():
        _, state = rnn(torch.randn(T, B, IN))
        found = again(state)
        assert isinstance(found, State)
        assert found.t == T
        x = torch.randn(2, B, IN)
        assert torch.equal(rnn(x, found)[0], rnn(x, state)[0])


@pytest.mark.skipif(not hasattr(torch.serialization, "add_safe_globals"), reason="torch 2.3 loads no classes so")
def test_a_state_is_loaded_as_weights_are(tmp_path: Path) -> None:
    rnn = nr.RNN(ALL, IN, H, 2, last_size=3)
    with torch.no_grad():
        _, state = rnn(torch.randn(T, B, IN))
        torch.save({"state": state}, tmp_path / "state.pt")
        found = torch.load(tmp_path / "state.pt", weights_only=True)["state"]
        assert isinstance(found, State)
        assert found.t == T
        x = torch.randn(2, B, IN)
        assert torch.equal(rnn(x, found)[0], rnn(x, state)[0])


@pytest.mark.parametrize("kind", [tuple, list, iter])
def test_layers_of_different_sizes_are_a_sequence_of_any_kind(kind: Callable[[list[Tensor]], Any]) -> None:
    sizes = [torch.zeros(B, H), torch.ones(B, 3)]
    state = State(kind(sizes), kind(sizes), t=4)
    assert (type(state), type(state.h), type(state.c), state.t) == (State, tuple, tuple, 4)
    rnn = nr.RNN(nr.zoo["LSTM"], IN, H, 2, last_size=3)
    x = torch.randn(T, B, IN)
    assert torch.equal(rnn(x, state)[0], rnn(x, (tuple(sizes), tuple(sizes)))[0])
    assert len(State(kind(sizes), t=0)) == 1


@pytest.mark.parametrize("kind", [tuple, list, iter])
def test_parts_in_one_sequence_are_the_plain_tuple_of_parts(kind: Callable[[list[Tensor]], Any]) -> None:
    """As torch builds any tuple anew, whatever holds its elements."""
    parts = [torch.zeros(1, B, H), torch.ones(1, B, H)]
    found = State(kind(parts))
    assert type(found) is tuple
    assert all(map(torch.equal, found, parts))


def test_torch_finds_the_tensors_of_a_state() -> None:
    _, state = nr.RNN(ALL, IN, H)(torch.zeros(T, B, IN))
    doubled = torch.utils._pytree.tree_map(lambda part: part.double(), state)
    assert isinstance(doubled, State)
    assert {part.dtype for part in doubled} == {torch.float64}
    assert doubled.t == T


def test_what_data_parallel_gathers_is_the_tuple_of_parts() -> None:
    _, state = nr.RNN(nr.zoo["LSTM"], IN, H)(torch.zeros(T, B, IN))
    gathered = type(state)(map(torch.cat, zip(state, state, strict=True)))  # as torch.nn.parallel.gather does
    assert type(gathered) is tuple
    assert [part.shape for part in gathered] == [(2, B, H)] * 2


def test_replicas_as_data_parallel_makes_them() -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], IN, H, 2).double()
    replicas = {module: module._replicate_for_data_parallel() for module in rnn.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            setattr(replica, name, replicas[child])
        for name, parameter in module._parameters.items():
            setattr(replica, name, parameter * 1)  # a tensor, no parameter
    assert torch.equal(replicas[rnn](_input(T, B, IN))[0], rnn(_input(T, B, IN))[0])
    assert replicas[rnn].initial_state(B).h.dtype == torch.float64


@pytest.mark.parametrize("state", [(), [], (torch.zeros(1, B, H),) * 3])
def test_a_state_of_no_or_too_many_parts(state) -> None:
    with pytest.raises(ValueError, match=rf"this cell's state is \(h, c\), got {len(state)} parts"):
        nr.RNN(nr.zoo["LSTM"], IN, H)(torch.zeros(T, B, IN), state)


@pytest.mark.parametrize("shape", [(T, B, IN), (T, IN)])
@pytest.mark.parametrize("state", [0, "hc", 1.5, {"h": 0}, (0, 0), "h", ([1.0], [2.0]), (torch.tensor(0.0),)])
def test_a_state_that_is_no_tensors_is_told_what_it_should_be(state: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=r"the state is None, a State, h, or \(h, c\), got|state\.h must be a tensor"):
        nr.RNN(nr.zoo["LSTM"], IN, H)(torch.zeros(shape), state)


# --- the constructor and the module ----------------------------------------------------------------------------------


def test_arguments_stand_in_torchs_order() -> None:
    given = (IN, H, 2, True, True, 0.25, False, 0, "cpu", torch.float64)
    ours, theirs = nr.RNN(nr.zoo["LSTM"], *given), nn.LSTM(*given)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert {p.dtype for p in ours.parameters()} == {torch.float64}


@pytest.mark.parametrize("name", CASES)
def test_torchs_names_of_arguments(name: str) -> None:
    ours, theirs = _pair(name)
    x, state = _input(T, B, IN), _input(LAYERS, B, H)
    state = (state, state) if name == "LSTM" else state
    _assert_equal(ours(input=x, hx=state)[0], theirs(input=x, hx=state)[0])
    _assert_equal(ours(x, hx=state)[0], theirs(x, hx=state)[0])
    _assert_equal(ours(x=x, state=state)[0], theirs(x, state)[0])
    for call, message in (
        (lambda: ours(x, state, hx=state), "hx is torch's name for state, which is given too"),
        (lambda: ours(x, inputs=x), "takes x, state, lengths and generator, and no inputs"),
        (lambda: ours(hx=state), r"without x, the sequence: rnn\(x\)"),
        (lambda: ours([[0.0]]), r"x must be a tensor or a PackedSequence, got \[\[0\.0\]\]: pass torch\.as_tensor"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": "x"}, r"dropout must lie in \[0, 1\), got 'x'"),
        ({"dropout": None}, "dropout must lie in"),
        ({"weight_drop": float("nan")}, "weight_drop must lie in"),
        ({"input_size": 5.0}, r"input_size must be at least 1 and whole, got 5\.0"),
        ({"hidden_size": "4"}, "hidden_size must be at least 1 and whole, got '4'"),
        ({"num_layers": True}, "num_layers must be at least 1 and whole, got True"),
        ({"last_size": 0}, "last_size must be at least 1 and whole, got 0"),
    ],
)
def test_sizes_and_rates_of_other_kinds(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nr.RNN(nr.zoo["LSTM"], **{"input_size": IN, "hidden_size": H, **arguments})


def test_a_forgotten_cell_is_named() -> None:
    with pytest.raises(TypeError, match=r"the first argument is a Cell, or its text, got 5: nr\.RNN\(nr\.zoo"):
        nr.RNN(IN, H, 2)  # type: ignore[arg-type]


def test_arguments_of_torch_that_a_cell_has_no_meaning_for() -> None:
    with pytest.raises(ValueError, match=r"bidirectional=True let a second nr\.RNN"):
        nr.RNN(nr.zoo["LSTM"], IN, H, bidirectional=True)
    with pytest.raises(ValueError, match=r"no proj_size \(got 3\): put an nn\.Linear behind it"):
        nr.RNN(nr.zoo["LSTM"], IN, H, proj_size=3)
    ours, theirs = nr.RNN(nr.zoo["LSTM"], IN, H, bidirectional=False, proj_size=0), nn.LSTM(IN, H)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_a_second_layer_from_the_end_is_the_other_direction() -> None:
    theirs = nn.LSTM(IN, H, bidirectional=True).double()
    one_way = nn.LSTM(IN, H).double()
    both = []
    for suffix, turn in (("", lambda v: v), ("_reverse", lambda v: v.flip(0))):
        one_way.load_state_dict({name: getattr(theirs, name + suffix) for name in one_way.state_dict()})
        ours = nr.RNN(nr.zoo["LSTM"], IN, H).double()
        _copy(ours, one_way, *CASES["LSTM"][1:])
        both.append(turn(ours(turn(_input(T, B, IN)))[0]))
    _assert_equal(torch.cat(both, dim=-1), theirs(_input(T, B, IN))[0])


def test_device_and_dtype() -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], IN, H, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in rnn.parameters()} == {("meta", torch.float64)}
    rnn.to_empty(device="cpu").reset_parameters(torch.Generator().manual_seed(3))
    expected = nr.RNN(nr.zoo["LSTM"], IN, H, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert all(map(torch.equal, rnn.parameters(), expected.parameters()))
    assert float(torch.cat([p.detach().flatten() for p in rnn.parameters()]).abs().max()) <= H**-0.5


def test_what_code_for_torch_calls() -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], IN, H)
    rnn.flatten_parameters()
    before = copy.deepcopy(rnn)
    rnn.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    assert not any(map(torch.equal, rnn.parameters(), before.parameters()))
    rnn.load_state_dict(before.state_dict())
    assert all(map(torch.equal, rnn.parameters(), before.parameters()))
    out, state = rnn.half()(torch.randn(T, B, IN).half())
    assert {out.dtype, *(part.dtype for part in state)} == {torch.float16}


# --- what others put in the place of weights -------------------------------------------------------------------------


def _weights(rnn: RNN) -> list[tuple[nn.Module, str]]:
    lists = [module for module in rnn.modules() if isinstance(module, nn.ParameterList)]
    return [(module, name) for module in lists for name, p in module.named_parameters(recurse=False) if p.dim() == 2]


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_pruned_weights_stay_pruned_while_they_are_trained(backend: str) -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], IN, H, 2, backend=backend)
    plain = copy.deepcopy(rnn)
    wanted = _weights(rnn)
    assert len(wanted) == 4
    for module, name in wanted:
        prune.random_unstructured(module, name, amount=0.5)
    masks = [getattr(module, f"{name}_mask") for module, name in wanted]
    x = torch.randn(T, B, IN)
    optimiser = torch.optim.SGD(rnn.parameters(), lr=1.0)
    for _ in range(2):
        optimiser.zero_grad()
        rnn(x)[0].square().sum().backward()
        optimiser.step()
    for (module, name), mask in zip(wanted, masks, strict=True):
        assert float(getattr(module, f"{name}_orig").grad[mask == 0].abs().max()) == 0
    with torch.no_grad():
        plain.load_state_dict(
            {
                key.removesuffix("_orig"): value * rnn.state_dict().get(key.removesuffix("_orig") + "_mask", 1)
                for key, value in rnn.state_dict().items()
                if not key.endswith("_mask")
            }
        )
        torch.testing.assert_close(rnn(x)[0], plain(x)[0])
    for module, name in wanted:
        prune.remove(module, name)
    assert set(rnn.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(rnn(x)[0], plain(x)[0])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm, old_weight_norm])
def test_weights_that_are_made_of_others(norm) -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], IN, H)
    for module, name in _weights(rnn):
        norm(module, name)
    x = torch.randn(T, B, IN)
    first = rnn.eval()(x)[0].detach()
    out, _ = rnn(x)
    out.square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in rnn.parameters())
    with torch.no_grad():
        for key, p in rnn.named_parameters():
            if "weight" in key:
                p.sub_(0.5 * p.grad)
    assert not torch.allclose(rnn(x)[0], first)


def test_a_state_with_another_part() -> None:
    h, c = torch.ones(1, 2, 3), torch.zeros(1, 2, 3)
    state = State(h, c, t=4)
    other = state.replace(h=2 * h, t=5)
    assert torch.equal(other.h, 2 * h)
    assert other.c is c
    assert (other.t, state.t, other.x) == (5, 4, None)
