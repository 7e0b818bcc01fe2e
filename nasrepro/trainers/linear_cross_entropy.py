"""Linear layer, softmax and cross-entropy in one: the last layer of a language model together with its loss.

With a vocabulary of 10,000 words or more this is most of a small model's work, and its (tokens, words) logits are most
of its memory. So logits are made for some rows at a time, and turned into gradients at once: these are ready when the
loss is, and backpropagation only hands them out.
"""

import ctypes
import math
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nasrepro import native
from nasrepro.native import NativeError
from nasrepro.native.gemm import load_products
from nasrepro.native.scratch import scratch
from nasrepro.rnn.products import PRODUCT_DTYPES, add_product, autocast_dtype

_LOGIT_BYTES = 64 * 2**20  # size of the logits that are in memory at a time
_failed: set[bool] = set()  # values of `rounds` for which the C code could not be compiled, which is not tried again


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    product_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean cross-entropy of F.linear(features, weight, bias) against targets, over rows, in nats: ().

    The same as `F.cross_entropy(F.linear(features, weight, bias), targets)`, without its logits ever being whole in
    memory. Compiled C does it for float32 on the CPU; torch elsewhere, and with one warning where C cannot be compiled.

    Args:
        features, weight, bias, targets: (N, D); (V, D); (V,), or None for none; (N,), int64, each in 0 .. V - 1.
        product_dtype: torch.bfloat16 rounds what enters the three matrix products, which still add up in float32:
            nearly twice as fast where the processor multiplies such numbers, with gradients good to about two digits.
            For float32 features only.

    Raises: ValueError for shapes or types that do not fit together, IndexError for a target outside the vocabulary (on
    the CPU; a GPU finds it by itself, later). Double backward is not supported. It is those two functions, and nothing
    is rounded, under torch.autocast, which says itself in what types they run, and for what compiled code may not read:
    in torch.compile, torch.func and the like (see `native.readable`).
    """
    autocast = autocast_dtype(features) is not None
    tensors = (features, weight, bias, targets)
    _check(*tensors, product_dtype, autocast)
    if autocast or not native.readable(*tensors):
        return F.cross_entropy(F.linear(features, weight, bias), targets)
    _check_vocabulary(targets, len(weight))
    wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in tensors[:3]]
    rounds = product_dtype == torch.bfloat16
    if any(wanted):
        return _LinearCrossEntropy.apply(wanted, rounds, *tensors)  # type: ignore[no-untyped-call]
    return _loss_and_gradients(wanted, rounds, *tensors)[0]


def _check(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, product_dtype: torch.dtype, autocast: bool
) -> None:
    if product_dtype not in PRODUCT_DTYPES.values():
        raise ValueError(f"product_dtype must be torch.float32 or torch.bfloat16, got {product_dtype!r:.100}")
    if product_dtype == torch.bfloat16 and features.dtype != torch.float32 and not autocast:
        raise ValueError(f"features are {features.dtype}: bfloat16 products are for float32 ones")
    shape, of_weight = tuple(features.shape), tuple(weight.shape)
    rows, width = features.shape if features.ndim == 2 else (0, 0)
    if not (rows and width):
        raise ValueError(f"features are {shape}: they must be (rows, width), at least one of each")
    if weight.ndim != 2 or weight.shape[1] != width:
        raise ValueError(f"weight is {of_weight}: with features {shape} it must be (words, {width})")
    words = weight.shape[0]
    if bias is not None and bias.shape != (words,):
        raise ValueError(f"bias is {tuple(bias.shape)}: with weight {of_weight} it must be ({words},)")
    if targets.shape != (rows,) or targets.dtype != torch.int64:
        given = f"{tuple(targets.shape)} of {targets.dtype}"
        raise ValueError(f"targets are {given}: they must be ({rows},) of torch.int64")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None or (autocast and tensor.device == features.device):  # it makes the types equal
            continue
        if (tensor.dtype, tensor.device) != (features.dtype, features.device):
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, but features are {features.dtype} on {features.device}"
            )
    if targets.device != features.device:
        raise ValueError(f"targets are on {targets.device}, but features on {features.device}")


def _check_vocabulary(targets: Tensor, words: int) -> None:
    if targets.device.type != "cpu":
        return
    for target in map(int, targets.aminmax()):
        if not 0 <= target < words:
            raise IndexError(
                f"target {target} is outside the vocabulary of {words} words: it must be in 0 .. {words - 1}"
            )


_Gradients = list[Tensor | None]  # of features, weight and bias; None where nobody wants one


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wanted: list[bool], rounds: bool, *tensors: Any) -> Tensor:
        loss, gradients = _loss_and_gradients(wanted, rounds, *tensors)
        # Saved tensors are let go of before they reach the parameters, which so take them over without a copy.
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        instead = "F.cross_entropy(F.linear(features, weight, bias), targets)"
        native.refuse_second_derivative("linear_cross_entropy", instead)
        gradients = ctx.saved_tensors
        # On a GPU, to look whether it is 1 would mean to wait for all that was sent there; a batch is not one number.
        if d_loss.device.type != "cpu" or not native.in_memory(d_loss) or d_loss != 1:
            gradients = tuple(None if gradient is None else gradient * d_loss for gradient in gradients)
        return (None, None, *gradients, None)


def _loss_and_gradients(
    wanted: list[bool], rounds: bool, features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, _Gradients]:
    """The loss (), and the gradients by features, weight and bias that are wanted; `rounds`: products take bfloat16."""
    if features.dtype == torch.float32 and features.device.type == "cpu" and rounds not in _failed:
        try:
            return _by_c(wanted, rounds, features, weight, bias, targets)
        except NativeError as error:
            _failed.add(rounds)
            warnings.warn(f"the softmax runs without compiled code, slower: {error}", RuntimeWarning, stacklevel=3)
    return _by_torch(wanted, rounds, features, weight, bias, targets)


def _rows_at_once(rows: int, words: int, bytes_per_logit: int) -> int:
    """Rows of a chunk, all chunks being equally long."""
    most = max(1, _LOGIT_BYTES // (words * bytes_per_logit))
    return math.ceil(rows / math.ceil(rows / most))


class _Call(ctypes.Structure):  # in the order of linear_cross_entropy.c
    _fields_ = (
        *((name, ctypes.c_long) for name in ("rows", "width", "words", "rows_at_once", "threads")),
        *((name, ctypes.c_void_p) for name in ("features", "weight", "bias", "targets")),
        *((name, ctypes.c_void_p) for name in ("d_features", "d_weight", "d_bias", "scratch", "losses")),
    )


@lru_cache(maxsize=2)
def _library(rounds: bool) -> ctypes.CDLL:
    library = load_products('#include "linear_cross_entropy.c"\n', bfloat16=rounds)
    library.scratch_floats.restype = ctypes.c_long
    library.linear_cross_entropy.restype = ctypes.c_double
    return library


def _by_c(
    wanted: list[bool], rounds: bool, features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, _Gradients]:
    """The same in compiled C, for float32 on the CPU. Raises NativeError where that cannot be compiled."""
    library = _library(rounds)
    inputs = [None if tensor is None else tensor.detach().contiguous() for tensor in (features, weight, bias, targets)]
    gradients = [
        torch.empty_like(tensor) if want and tensor is not None else None
        for tensor, want in zip(inputs, wanted, strict=False)
    ]
    threads = min(torch.get_num_threads(), native.CORES)
    losses = (ctypes.c_double * threads)()
    (rows, width), words = features.shape, len(weight)
    call = _Call(
        rows, width, words, _rows_at_once(rows, words, 4), threads,
        *(None if tensor is None else tensor.data_ptr() for tensor in (*inputs, *gradients)),
        None, ctypes.addressof(losses),
    )  # fmt: skip
    with scratch(library.scratch_floats(ctypes.byref(call))) as call.scratch:
        loss = library.linear_cross_entropy(ctypes.byref(call))
    return torch.tensor(loss, dtype=torch.float32, device="cpu"), gradients


def _by_torch(
    wanted: list[bool], rounds: bool, features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, _Gradients]:
    """The same by torch, for any type and device. The softmax is float32, at least; nothing waits for a GPU."""
    given = features.dtype
    narrow = torch.bfloat16 if rounds else given  # of what is multiplied
    exact = torch.promote_types(given, torch.float32)
    d_features = torch.empty_like(features) if wanted[0] else None
    d_weight = torch.zeros_like(weight) if wanted[1] else None
    d_bias = torch.zeros_like(bias) if wanted[2] and bias is not None else None
    features, weight = features.detach().to(narrow), weight.detach().to(narrow)
    rows = len(targets)
    step = _rows_at_once(rows, len(weight), exact.itemsize)
    loss = torch.zeros((), dtype=exact, device=features.device)
    for first in range(0, rows, step):
        x, target = features[first : first + step], targets[first : first + step]
        logits = torch.empty(len(x), len(weight), dtype=exact, device=x.device)  # (rows of the chunk, V)
        add_product(logits, x, weight.T)
        log_probabilities = (logits if bias is None else logits.add_(bias.detach())).log_softmax(1)
        loss += F.nll_loss(log_probabilities, target, reduction="sum")
        if not any(wanted):
            continue
        d_logits = log_probabilities.exp_()
        d_logits[torch.arange(len(target), device=target.device), target] -= 1
        if d_bias is not None:
            d_bias.add_(d_logits.sum(0), alpha=1 / rows)
        d_logits = d_logits.to(narrow)
        # Only their products are divided by the rows: a half-precision number would have no digits left.
        if d_features is not None:
            add_product(d_features[first : first + step], d_logits, weight, scale=1 / rows)
        if d_weight is not None:
            add_product(d_weight, d_logits.T, x, keep=True, scale=1 / rows)
    return (loss / rows).to(given), [d_features, d_weight, d_bias]
