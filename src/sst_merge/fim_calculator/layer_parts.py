"""Layers of which this process holds a part: what transformers' tensor parallelism leaves of them to hooks.

With W cut by outputs (q, k, v, gate, up) a hook sees all of x and this process's outputs y, so that Uᵀδ is a sum over
processes; with W cut by inputs (o, down) it sees its inputs x and all of y, and Vᵀx is the sum. Everything else is the
same in every process.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .. import processes
from ..errors import BaseModelError
from ..lora_utils import LINEAR, ModuleKind

__all__ = ["LayerPart", "part_of", "refuse_waiting"]


@dataclass(frozen=True)
class LayerPart:
    """What this process holds of a layer.

    Attributes:
        group: of the processes that hold the whole.
        by_outputs: whether W is cut by its outputs; else by its inputs.
        begin: first row of the part, of U or of V.
        end: after its last row.
    """

    group: Any
    by_outputs: bool
    begin: int
    end: int

    def bases(self, left: Tensor, right: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of U and of V for what a hook sees; x and y may have been put together again around the layer."""
        if self.by_outputs and y.shape[-1] == self.end - self.begin:
            return left[self.begin : self.end], right
        if not self.by_outputs and x.shape[-1] == self.end - self.begin:
            return left, right[self.begin : self.end]
        return left, right

    def summed(self, part: Tensor) -> Tensor:
        """A projection of all processes' parts, changed in place."""
        import torch

        whole = part.contiguous()
        torch.distributed.all_reduce(whole, group=self.group)
        return whole


def part_of(name: str, module: nn.Module, kind: ModuleKind) -> LayerPart | None:
    """This process's part of a layer; None where it holds the whole.

    Args:
        name: of the module, for messages.
        module: of the base model.
        kind: of layer.

    Returns:
        Its part.

    Raises:
        BaseModelError: it is cut in another way than by outputs or by inputs.
    """
    cut = _placements(getattr(module, "weight", None))
    if cut is None:
        return None
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    weight: Any = module.weight
    if all(placement.is_replicate() for placement in cut):
        return None
    if len(cut) != 1 or type(cut[0]) is not Shard or kind != LINEAR:
        raise BaseModelError(
            f"module {name} ({type(module).__name__}): its weight is cut into {cut}; expected a linear layer cut by "
            f"its outputs or by its inputs (tp_plan='auto'). Leave the module out, or load the base with device_map"
        )
    shape, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, cut)
    side = cut[0].dim % 2
    return LayerPart(weight.device_mesh.get_group(), side == 0, offset[side], offset[side] + shape[side])


def refuse_waiting(model: nn.Module) -> None:
    """Refuse a model whose processes would wait for each other for ever, because they read different rows.

    Raises:
        BaseModelError: FSDP has cut it (its layers are put together anew in every pass, by all processes), or tensor
            parallelism has, and the processes share the rows.
    """
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    from torch.distributed import fsdp

    kinds: tuple[Any, ...] = (fsdp.FullyShardedDataParallel, getattr(fsdp, "FSDPModule", fsdp.FullyShardedDataParallel))
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            raise BaseModelError(
                f"module {name or type(model).__name__!r}: FSDP has cut its weights; expected a whole model in every "
                f"process, or one loaded with device_map or tp_plan='auto'"
            )
    cut = [name for name, weight in model.named_parameters() if _placements(weight) is not None]
    if cut and processes.count() > 1:
        raise BaseModelError(
            f"weight {cut[0]} (of {len(cut)}) is cut over the processes, which then have to read the same rows; found "
            f"rows shared by {processes.count()} processes. Work outside of processes.joined(), or load it whole"
        )


def _placements(weight: Any) -> tuple[Any, ...] | None:
    """How a weight is cut; None of a plain tensor."""
    found: tuple[Any, ...] | None = getattr(weight, "placements", None)
    return found if isinstance(found, tuple) else None
