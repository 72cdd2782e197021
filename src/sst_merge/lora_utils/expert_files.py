"""Fused experts on their way into a file: modules come one by one, PEFT wants one pair of factors for each stack."""

from dataclasses import dataclass, field

from torch import Tensor

from ..errors import AdapterError
from .experts import DECLARED, ExpertKind, joined_experts, parameter_of
from .tensor_file import TensorFile

__all__ = ["ExpertFile"]


@dataclass
class ExpertFile:
    """Stacks of one adapter; one is in memory at a time where its experts come one after the other.

    Attributes:
        tensors: where they are written.
        prefix: of all keys.
        ranks: parameter → rank of its stack, as far as written.
    """

    tensors: TensorFile
    prefix: str
    ranks: dict[str, int] = field(default_factory=dict)
    _waiting: dict[str, tuple[int, dict[int, tuple[Tensor, Tensor]]]] = field(default_factory=dict)

    def add(self, module: str, kind: ExpertKind, a: Tensor, b: Tensor) -> None:
        """Take one expert's A (r, d_in) and B (d_out, r); write its stack where it is the last one.

        Raises:
            AdapterError: stacks of one parameter that have different numbers of experts.
        """
        path = parameter_of(module)
        count, factors = self._waiting.setdefault(path, (kind.count, {}))
        if count != kind.count or path in self.ranks:
            raise AdapterError(f"module {module!r} is {kind}, others of its stack are of {count}; expected one stack")
        factors[kind.index] = (a, b)
        if len(factors) == count:
            self._write(path)

    def finish(self) -> None:
        """Write stacks that lack some experts, whose updates are zero, and give all their names in the file."""
        for path in list(self._waiting):
            self._write(path)
        names: dict[str, str] = {}
        for path in self.ranks:
            module, _, parameter = path.rpartition(".")
            # PEFT wraps the parameters of a module in the order in which it declares them.
            later = DECLARED[DECLARED.index(parameter) + 1 :] if parameter in DECLARED else ()
            depth = sum(f"{module}.{name}" in self.ranks for name in later)
            for part in ("lora_A", "lora_B"):
                names[self._key(path, part)] = self._key(module + ".base_layer" * depth, part)
        self.tensors.rename(names)

    def _write(self, path: str) -> None:
        count, factors = self._waiting.pop(path)
        a, b = joined_experts(factors, count)
        self.tensors.write(self._key(path, "lora_A"), a, rank_dimension=1, joined=0)
        self.tensors.write(self._key(path, "lora_B"), b, rank_dimension=1, joined=1)
        self.ranks[path] = a.shape[1]

    def _key(self, module: str, part: str) -> str:
        return f"{self.prefix}{module}.{part}.weight"
