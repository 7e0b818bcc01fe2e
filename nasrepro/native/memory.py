"""Which tensors compiled code may read: it is given an address, and sees nothing of what else a tensor is to torch."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# torch's dispatcher keeps, for every tensor, a set of all that an operator on it has to heed, and one for the thread.
# What plain numbers in memory have stands below, and what a thread has where nothing but autograd and autocast are at
# work. A fake or a batched tensor, one that is traced, differentiated by torch.func, sparse, negated or zeroed lazily:
# each has something more. So we need no list of these, and what torch invents next is not read by mistake.
_Key, _Keys, _keys_of = torch._C.DispatchKey, torch._C.DispatchKeySet, torch._C._dispatch_keys
_OF_MEMORY = (
    _Keys(_Key.CPU) | _Keys(_Key.AutogradCPU) | _Keys(_Key.AutocastCPU)
    | _Keys(_Key.CUDA) | _Keys(_Key.AutogradCUDA) | _Keys(_Key.AutocastCUDA)
    | _Keys(_Key.ADInplaceOrView)
)  # fmt: skip
_OF_THREADS = _Keys(_Key.BackendSelect) | _Keys(_Key.ADInplaceOrView)
# How torch calls the first key of a set that has none, or names a device alone, as old releases may leave a thread.
_NOTHING = tuple(getattr(_Key, name) for name in ("Undefined", "StartOfDenseBackends"))
_TYPES = (Tensor, nn.Parameter)  # a subclass may mean anything by its numbers, and wants to see the operators


def readable(*tensors: Tensor | None) -> bool:
    """Whether these tensors are plain memory and the call is a plain one, so that compiled code may stand in for torch.

    False while torch.compile, torch.export, torch.jit.trace, make_fx or any other mode looks at operators, inside the
    transforms of torch.func and forward-mode differentiation, and for tensors on other devices than CPU and CUDA:
    torch's own operators must run there. None stands for a tensor that is not needed.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return False
    return _nothing_but(_OF_THREADS, torch._C._dispatch_tls_local_include_set()) and in_memory(*tensors)


def in_memory(*tensors: Tensor | None) -> bool:
    """Whether these tensors are plain memory, whatever looks at the call: what is left to ask on the way back."""
    found = _OF_MEMORY
    for tensor in tensors:
        if tensor is not None:
            if type(tensor) not in _TYPES or not (tensor.is_cpu or tensor.is_cuda):
                return False
            found = found | _keys_of(tensor)
    return _nothing_but(_OF_MEMORY, found)


def refuse_second_derivative(what: str, instead: str) -> None:
    """Raise RuntimeError on the way back with create_graph: what compiled code gives would pass for constants."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"{what} cannot be differentiated twice: where create_graph=True is needed, take {instead}")


def _nothing_but(expected: "torch._C.DispatchKeySet", found: "torch._C.DispatchKeySet") -> bool:
    return (found - expected).highestPriorityTypeId() in _NOTHING
