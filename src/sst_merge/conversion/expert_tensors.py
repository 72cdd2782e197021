"""Which tensors of a base's files hold the experts that transformers fuses into one parameter when it loads them.

Models of before transformers 5 (Mixtral, Qwen-MoE, …) have one tensor for every expert and projection on disk, and
transformers writes them so again; gpt-oss has the stack itself.
"""

from dataclasses import dataclass

from ..lora_utils import BaseWeights
from .for_base import stored_key

__all__ = ["ExpertTensor", "expert_tensors", "on_disk"]

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
        experts: numbers of those in it.
        rows: first and end of those of the expert's ΔW that are the tensor's; None for all.
        stacked: whether it holds a stack.
    """

    name: str
    experts: tuple[int, ...]
    rows: tuple[int, int] | None = None
    stacked: bool = False


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
    if (stacked := on_disk(parameter, weights)) is not None:
        return [ExpertTensor(stacked, tuple(range(count)), stacked=True)]
    owner, _, name = parameter.rpartition(".")
    for parts in _UNFUSED.get(name, ()):
        rows = d_out // len(parts)
        found = [
            (on_disk(f"{owner}.{index}.{part}.weight", weights), index, (place * rows, (place + 1) * rows))
            for index in range(count)
            for place, part in enumerate(parts)
        ]
        if all(tensor is not None for tensor, _, _ in found):
            return [ExpertTensor(str(tensor), (index,), of_expert) for tensor, index, of_expert in found]
    return []


def on_disk(parameter: str, weights: BaseWeights) -> str | None:
    """What a base's files call a parameter of a mixture, under a name that the model knows or knew; None: nothing."""
    names = (parameter, *(parameter.replace(loaded, stored) for loaded, stored in _CONTAINERS))
    # Names that differ by a prefix are looked for among all, of which a mixture has tens of thousands.
    if (known := next((name for name in names if name in weights.files), None)) is not None:
        return known
    return next((name for name in names if stored_key(name, {}, weights) is not None), None)
