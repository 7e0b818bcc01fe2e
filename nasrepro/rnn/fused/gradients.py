"""What both fused backends refuse on the way back."""

from torch import Tensor

from nasrepro import native


def refuse_transformed(*gradients: Tensor | None) -> None:
    """Raise RuntimeError where compiled code would take for plain numbers what torch wants to see its operators on."""
    native.refuse_second_derivative("a fused cell", 'backend="reference"')
    if not native.in_memory(*gradients):
        raise RuntimeError(
            "gradients of a fused cell can be neither batched (vmap, is_grads_batched, vectorize=True) nor traced "
            'without its call: where that is needed, take backend="reference"'
        )
