"""Which numbers matrix products take, and products by torch whose sums have more digits than what is multiplied."""

import torch
from torch import Tensor

PRODUCT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What products take: float32 takes operands as they are; bfloat16 rounds them, and sums stay float32."""


def _widens(version: str) -> bool:
    """Whether this torch adds products to a target of a wider dtype: 2.8 and 2.9 have the operator, but refuse to."""
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= (2, 10)


_WIDENS = _widens(torch.__version__)


def autocast_dtype(like: Tensor) -> torch.dtype | None:
    """What torch.autocast has products take in place of `like`'s numbers here and now; None where it leaves them."""
    kind = like.device.type
    if like.dtype == torch.float64 or not like.is_floating_point():
        return None
    if hasattr(torch, "get_autocast_dtype"):
        wanted = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        return torch.get_autocast_dtype(kind) if wanted else None
    if kind == "cpu":  # before torch 2.4 each of the two devices has functions of its own
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if kind == "cuda" and torch.is_autocast_enabled() else None


def add_product(target: Tensor, a: Tensor, b: Tensor, *, keep: bool = False, scale: float = 1.0) -> None:
    """target (n, m) = scale * a (n, k) b (k, m), plus what it held if we keep that; its dtype is a's or a wider one.

    Products of narrower numbers are added up in the target's dtype: in one kernel on CUDA from torch 2.10 on, elsewhere
    by widening them first.
    """
    if a.dtype == target.dtype:
        target.addmm_(a, b, beta=int(keep), alpha=scale)
    elif target.is_cuda and _WIDENS:
        torch.addmm(target, a, b, out_dtype=target.dtype, beta=int(keep), alpha=scale, out=target)
    else:
        target.addmm_(a.to(target.dtype), b.to(target.dtype), beta=int(keep), alpha=scale)
