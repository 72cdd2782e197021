"""What an adapter is asked module by module: shape, rank, kind of layer, exact factors, and whether they are sound."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import AdapterError
from ..texts import counted
from .entries import ModuleLayout, natural_key
from .factors import LoraFactors
from .layouts import ModuleKind
from .sources import Source
from .whole_weights import WholeWeight

__all__ = ["ModuleUpdates"]


class ModuleUpdates:
    """The updates of an adapter, one module at a time: what its header says at once, its values on demand.

    Attributes:
        name: of the adapter, for messages.
        modules: canonical names of the modules that it touches.
        whole: canonical tensor name → whole trained weight beside the factors.
    """

    name: str
    modules: tuple[str, ...]
    whole: Mapping[str, WholeWeight]
    _layouts: Mapping[str, ModuleLayout]
    _source: Source

    def __contains__(self, module: object) -> bool:
        return module in self._layouts

    def shape(self, module: str) -> tuple[int, int]:
        """(d_out, d_in) of a module."""
        layout = self._layout(module)
        return layout.d_out, layout.d_in

    def rank(self, module: str) -> int:
        """Rank of a module's factors; with a LoRA bias one more than in the file."""
        return self._layout(module).rank

    def kind(self, module: str) -> ModuleKind:
        """The module's kind of layer."""
        return self._layout(module).kind

    def has_bias(self, module: str) -> bool:
        """Whether the module's update moves its bias too."""
        return self._layout(module).bias

    def factors(self, module: str, *, dtype: torch.dtype | None = None) -> LoraFactors:
        """A module's exact factors, the scale baked into B.

        Read from the file each time, as tensors of their own; an adapter in memory hands out the tensors it keeps.

        Args:
            module: canonical module name.
            dtype: type to return; by default float32, or float64 where the file has float64, and for an adapter in
                memory the type it has.

        Raises:
            AdapterError: the adapter does not touch the module, or its file is gone.
        """
        kind = self._layout(module).kind
        factors = self._source.read(module, dtype)
        return factors if factors.kind == kind else replace(factors, kind=kind)

    def delta(self, module: str, *, dtype: torch.dtype | None = None) -> Tensor:
        """ΔW = s·B·A of a module.

        Args:
            module: canonical module name.
            dtype: type to compute in and return; as in :meth:`factors` by default.

        Returns:
            (d_out, d_in), whatever orientation the base stores, without the bias column.
        """
        return self.factors(module, dtype=dtype).delta()

    @property
    def is_scaled_away(self) -> bool:
        """Whether the configuration makes every ΔW zero: lora_alpha = 0."""
        return all(self._source.is_scaled_away(module) for module in self.modules)

    def check_values(self) -> tuple[str, ...]:
        """Look at every factor and whole weight once.

        Returns:
            Modules of which one factor, or the scale, is zero, and with it ΔW.

        Raises:
            AdapterError: NaN or Inf, with the tensor's name.
        """
        for weight in self.whole.values():
            weight.check()
        return tuple(m for m in self.modules if self._source.check(m) or self._source.is_scaled_away(m))

    def _layout(self, module: str) -> ModuleLayout:
        try:
            return self._layouts[module]
        except KeyError:
            raise AdapterError(
                f"adapter {self.name!r} does not touch module {module!r}; it touches "
                f"{counted(len(self.modules), 'module')}, such as {self.modules[0]!r}"
            ) from None

    def _by_new_name(self, names: Mapping[str, str]) -> dict[str, str]:
        """New name → module, of all modules, in natural order of the new ones.

        Raises:
            AdapterError: two modules would have one name.
        """
        by_new: dict[str, str] = {}
        for module in self.modules:
            new = names.get(module, module)
            if by_new.setdefault(new, module) != module:
                raise AdapterError(
                    f"adapter {self.name!r}: modules {by_new[new]!r} and {module!r} would both be called {new!r}; "
                    f"expected one name for each"
                )
        return {new: by_new[new] for new in sorted(by_new, key=natural_key)}
