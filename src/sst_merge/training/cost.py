"""How long a training takes, before it starts: its matrix products, at the speed that this machine multiplies."""

from ..lora_utils import BaseModelIndex
from ..machine import operations_per_second
from .plan import TrainingPlan

__all__ = ["estimated_seconds"]

# Of the matrix products' speed, what a whole step reaches: attention, norms, activations and the adapter come on top.
_SHARE = 0.6


def estimated_seconds(plan: TrainingPlan, index: BaseModelIndex, *, dtype: str, device: str) -> float:
    """A rough estimate: within a factor of two where the model fits the memory.

    Forward 2 and backward 2 operations a weight and token (the base's own gradients are not computed); the output layer
    at the answers' tokens alone.

    Args:
        plan: the steps.
        index: layers of the base.
        dtype: type of the base in training.
        device: where it runs.

    Returns:
        Seconds.
    """
    heads, layers = _weights(index)
    operations = 4.0 * (layers * plan.computed_tokens + heads * plan.answer_tokens)
    return operations / (_SHARE * operations_per_second(dtype, device))


def _weights(index: BaseModelIndex) -> tuple[int, int]:
    """Weights of the output layer, and of all other layers."""
    vocabulary = {shape.d_in for shape in index.modules.values() if not shape.kind.reads_vectors}
    heads = layers = 0
    for shape in index.modules.values():
        if shape.kind.reads_vectors:
            size = shape.d_in * shape.d_out
            if shape.d_out in vocabulary:
                heads += size
            else:
                layers += size
    return heads, layers
