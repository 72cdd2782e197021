"""Which tensors of a base's files hold the experts that transformers fuses into one parameter when it loads them.

Models of before transformers 5 (Mixtral, Qwen-MoE, …) have one tensor for every expert and projection on disk, and
transformers writes them so again; gpt-oss has the stack itself.
"""

from dataclasses import dataclass

from ..lora_utils import BaseWeights
from .for_base import stored_key

__all__ = ["ExpertTensor", "expert_tensors"]

# Parameter → names of the tensors whose rows it has one below the other, in one of several spellings.
_UNFUSED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
_CONTAINERS = ((".mlp.", ".block_sparse_moe."),)  # as loaded, as on disk (Mixtral)


@dataclass(frozen=True)
class ExpertTensor:
    """One tensor of a base's files that holds experts.

    Attributes:
        name: of the tensor.
        experts: numbers of those in it, one below the other; one alone where it is a matrix.
        rows: first and end of those of the expert's ΔW that are the tensor's; None for all.
    """

    name: str
    experts: tuple[int, ...]
    rows: tuple[int, int] | None = None


def expert_tensors(parameter: str, count: int, d_out: int, weights: BaseWeights) -> list[ExpertTensor]:
    """Find a parameter's experts.

    Args:
        parameter: name of the stack in the model as transformers builds it.
        count: of experts.
        d_out: rows of each.
        weights: files of the base.

    Returns:
        The stack where there is one, else the tensors of single experts where all are there, else nothing.
    """
    if stored_key(parameter, {}, weights) is not None:
        return [ExpertTensor(parameter, tuple(range(count)))]
    owner, _, name = parameter.rpartition(".")
    owners = [owner, *(owner.replace(loaded, on_disk) for loaded, on_disk in _CONTAINERS)]
    for where in owners:
        for parts in _UNFUSED.get(name, ()):
            rows = d_out // len(parts)
            found = [
                ExpertTensor(f"{where}.{index}.{part}.weight", (index,), (place * rows, (place + 1) * rows))
                for index in range(count)
                for place, part in enumerate(parts)
            ]
            if all(stored_key(tensor.name, {}, weights) is not None for tensor in found):
                return found
    return []
