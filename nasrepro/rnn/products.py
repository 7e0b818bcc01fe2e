"""Matrix products by torch whose sums have more digits than what is multiplied."""

import torch
from torch import Tensor

PRODUCT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What products take: float32 takes operands as they are; bfloat16 rounds them, and sums stay float32."""


def _widens(version: str) -> bool:
    """Whether this torch adds products to a target of a wider dtype: 2.8 and 2.9 have the operator, but refuse to."""
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= (2, 10)


_WIDENS = _widens(torch.__version__)


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
