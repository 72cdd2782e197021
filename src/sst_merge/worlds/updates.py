"""A merged update, and the base model with it: what every merge is measured as."""

from collections.abc import Mapping, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from ..core_space import CoreSpace
from ..lora_utils import Adapter, LoraFactors

__all__ = ["Update", "UpdatedModel", "adapters_update", "core_update"]

Update = Mapping[str, LoraFactors]


def core_update(spaces: Mapping[str, CoreSpace], cores: Mapping[str, Tensor]) -> Update:
    """Factors of cores, nothing cut: B = U M, A = Vᵀ.

    Args:
        spaces: core space per module.
        cores: core per module.

    Returns:
        Module → factors.
    """
    return {
        m: LoraFactors(spaces[m].left @ core.to(spaces[m].left), spaces[m].right.T, spaces[m].kind, spaces[m].bias)
        for m, core in cores.items()
    }


def adapters_update(adapters: Sequence[Adapter]) -> Update:
    """The weighted sum of adapters as it is, for single adapters and plain sums.

    Args:
        adapters: what is added.

    Returns:
        Module → factors, side by side.
    """
    found: dict[str, LoraFactors] = {}
    for adapter in adapters:
        for module in adapter.modules:
            own = adapter.factors(module, dtype=torch.float32)
            b, a = adapter.weight * own.b, own.a
            if module in found:
                b, a = torch.cat([found[module].b, b], dim=1), torch.cat([found[module].a, a])
            found[module] = LoraFactors(b, a, own.kind, own.bias)
    return found


class UpdatedModel:
    """A base model whose weights hold one update after another; leaving the context restores the base exactly.

    ΔW is formed, one module at a time, so that methods whose result is not low-rank are measured as they are.

    Args:
        model: the base; its weights are changed in place.
        modules: canonical names of every module that an update may touch.
    """

    def __init__(self, model: nn.Module, modules: Sequence[str]) -> None:
        self.model = model
        self._layers = {name: model.get_submodule(name) for name in modules}
        self._base: dict[str, Tensor] = {}

    def __enter__(self) -> "UpdatedModel":
        self._base = {name: layer.weight.detach().clone() for name, layer in self._layers.items()}  # type: ignore[operator]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.set(None)
        self._base = {}

    @torch.no_grad()
    def set(self, update: Update | None) -> None:
        """W ← W₀ + ΔW.

        Args:
            update: what is added to the base; None is the base itself.
        """
        for name, layer in self._layers.items():
            weight = layer.weight
            weight.copy_(self._base[name])  # type: ignore[operator]
            if update is not None and name in update:
                weight.add_(update[name].stored_delta().to(weight))  # type: ignore[operator,arg-type]
