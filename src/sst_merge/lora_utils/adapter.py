"""One LoRA adapter: a header in memory, exact factors on demand."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import torch

from ..data_loader.hub import HubOrigin, short_name
from ..errors import AdapterError
from ..reading import reads
from .conversion import Conversion, Converted
from .entries import ModuleLayout, natural_key
from .expected_file import Ranks
from .factors import LoraFactors
from .folders import adapter_fingerprints
from .layouts import ModuleKind
from .load import read_fields
from .module_updates import ModuleUpdates
from .opening import fitting_task_type
from .sources import MemorySource, RenamedSource, Source
from .whole_weights import WholeWeight, renamed_whole
from .writing import write_adapter

__all__ = ["Adapter", "Role"]

Role = Literal["utility", "safety"]
_AS_IT_IS = Conversion()


@dataclass(frozen=True)
class Adapter(ModuleUpdates):
    """A PEFT LoRA adapter as exact low-rank updates, read one module at a time.

    Made by :meth:`load` or :meth:`from_factors`.

    Attributes:
        name: how messages and reports call it.
        role: ``utility`` (a skill) or ``safety``.
        weight: factor in a weighted merge; not part of ΔW.
        path: folder that it was loaded from, or None.
        base_model: ``base_model_name_or_path`` of its configuration.
        task_type: PEFT's task type, such as ``CAUSAL_LM``.
        modules: canonical names of the modules that it touches, in natural order.
        left_out: tensors of the file that are no part of ΔW (see :class:`~.header.Header`).
        whole: canonical tensor name → whole trained weight beside the factors (a head, a grown embedding); no part of
            ΔW, written again as it is.
        modules_to_save: PEFT's field of that name, as far as ``whole`` has tensors of it.
        notes: what PEFT would read otherwise, as sentences.
        leave_out: names of modules that it was loaded without.
        origin: repository and commit of the hub that it was fetched from, or None.
        is_fetched: False where its weights stayed on the hub (``headers_only``), so that no value can be read.
        plain_path: folder in which it lies as a plain LoRA: ``path``, unless it was of another kind.
        converted: what it was, where it was of another kind.
        initial_path: folder of the weights that training began with, where they were taken off.

    Raises:
        AdapterError: unknown role, or a weight that is not finite.

    Example:
        >>> import tempfile, torch
        >>> from sst_merge import Adapter, LoraFactors
        >>> made = Adapter.from_factors({"layer": LoraFactors(torch.ones(2, 1), torch.ones(1, 3))}, name="code")
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = made.save(f"{place}/code")
        ...     adapter = Adapter.load(folder, role="safety", weight=0.5)
        ...     adapter.name, adapter.role, adapter.rank("layer"), adapter.delta("layer").shape
        ('code', 'safety', 1, torch.Size([2, 3]))
    """

    name: str
    role: Role
    weight: float
    path: Path | None
    base_model: str | None
    task_type: str | None
    modules: tuple[str, ...]
    left_out: tuple[str, ...]
    whole: Mapping[str, WholeWeight]
    modules_to_save: tuple[str, ...]
    notes: tuple[str, ...]
    leave_out: tuple[str, ...]
    _layouts: Mapping[str, ModuleLayout] = field(repr=False)
    _source: Source = field(repr=False)
    origin: HubOrigin | None = None
    is_fetched: bool = True
    plain_path: Path | None = None
    converted: Converted | None = None
    initial_path: Path | None = None

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise AdapterError(f"adapter {self.name!r}: role is {self.role!r}, expected one of {get_args(Role)}")
        if isinstance(self.weight, bool) or not math.isfinite(self.weight):
            raise AdapterError(f"adapter {self.name!r}: weight is {self.weight!r}, expected a finite number")

    @classmethod
    @reads(AdapterError, "a PEFT adapter", "save the adapter again", at=1)
    def load(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        role: Role = "utility",
        weight: float = 1.0,
        drop_modules_to_save: bool = False,
        leave_out: Collection[str] = (),
        headers_only: bool = False,
        looked_at: Path | None = None,
        conversion: Conversion = _AS_IT_IS,
    ) -> "Adapter":
        """Open a PEFT LoRA folder; reads its configuration and the header of its safetensors file.

        An adapter of another kind (:mod:`.kinds`) is turned into a plain LoRA first, aside, for which its values are
        read.

        Args:
            path: the folder; a ``str`` may also name a repository of the hub (``user/name``, ``user/name@revision``,
                ``user/name/folder``), which is fetched. A folder of that name goes first.
            name: the folder's or repository's own name by default.
            role: ``utility`` or ``safety``.
            weight: factor in a weighted merge.
            drop_modules_to_save: leave whole trained weights (``modules_to_save``, saved embeddings) out; they are
                kept beside the factors otherwise (``whole``).
            leave_out: modules to leave out, by their names or the ends of their names, such as a convolution.
            headers_only: leave the weights of a repository on the hub: everything but values can be asked. An adapter
                with whole weights is fetched all the same, because what is done with them depends on their values.
            looked_at: where a folder of the repository's name was looked for before, for messages.
            conversion: what may be done to read an adapter that is no plain LoRA.

        Raises:
            AdapterError: anything under which ΔW = s·B·A would not be exact (:mod:`.settings`, :mod:`.header`), or that
                cannot be made so (:mod:`.kinds`).
            BaseModelError: an adapter of another kind needs its base, which cannot be read.
        """
        found = read_fields(
            path,
            conversion,
            drop_modules_to_save=drop_modules_to_save,
            leave_out=leave_out,
            headers_only=headers_only,
            looked_at=looked_at,
        )
        return cls(name=short_name(path) if name is None else name, role=role, weight=weight, **found)

    @classmethod
    def from_factors(
        cls,
        factors: Mapping[str, LoraFactors],
        *,
        name: str,
        role: Role = "utility",
        weight: float = 1.0,
        base_model: str | None = None,
        task_type: str | None = None,
        whole: Mapping[str, WholeWeight] = MappingProxyType({}),
        modules_to_save: tuple[str, ...] = (),
    ) -> "Adapter":
        """An adapter that lives in memory.

        Args:
            factors: canonical module name → its update; the tensors are kept, not copied, and no gradient goes
                through them.
            name: how messages and reports call it.
            role: ``utility`` or ``safety``.
            weight: factor in a weighted merge.
            base_model: id or folder of the base model.
            task_type: PEFT's task type.
            whole: canonical tensor name → whole weight of some file that is written along.
            modules_to_save: PEFT's field of that name.

        Raises:
            AdapterError: no modules.
        """
        if not factors:
            raise AdapterError(f"adapter {name!r}: no modules; expected the factors of at least one")
        kept = {module: factors[module].detach() for module in sorted(factors, key=natural_key)}
        layouts = {m: ModuleLayout(f.d_out, f.d_in, f.rank, f.kind, f.bias) for m, f in kept.items()}
        return cls(
            name=name,
            role=role,
            weight=weight,
            path=None,
            base_model=base_model,
            task_type=task_type,
            modules=tuple(kept),
            left_out=(),
            whole=whole,
            modules_to_save=modules_to_save,
            notes=(),
            leave_out=(),
            _layouts=MappingProxyType(layouts),
            _source=MemorySource(name, MappingProxyType(kept)),
        )

    def with_(self, *, name: str | None = None, role: Role | None = None, weight: float | None = None) -> "Adapter":
        """The same update under another name, role or weight (those that are None stay)."""
        return replace(
            self,
            name=self.name if name is None else name,
            role=self.role if role is None else role,
            weight=self.weight if weight is None else weight,
        )

    def with_kinds(self, kinds: Mapping[str, ModuleKind]) -> "Adapter":
        """The same update with the kinds that the base model really has.

        PEFT keeps one ``fan_in_fan_out`` for a whole adapter and corrects it layer by layer when it loads, so the
        flag on disk may be wrong for some modules. The factors do not depend on it; only ``kind`` does.

        Args:
            kinds: canonical module name → kind; modules that are missing keep theirs.

        Raises:
            AdapterError: a kind whose factors lie otherwise in a file, such as an embedding for a linear layer.
        """
        layouts = {m: replace(layout, kind=kinds.get(m, layout.kind)) for m, layout in self._layouts.items()}
        for module, layout in layouts.items():
            if not self.kind(module).fits(layout.kind):
                raise AdapterError(
                    f"adapter {self.name!r}: module {module!r} is {self.kind(module)} in the adapter and "
                    f"{layout.kind} in the base model; check that the adapter belongs to this base"
                )
        return replace(self, _layouts=MappingProxyType(layouts))

    def renamed(self, names: Mapping[str, str]) -> "Adapter":
        """The same update with other names for some modules.

        Args:
            names: module name → the new one.

        Raises:
            AdapterError: two modules would have one name.
        """
        kept = self._by_new_name(names)
        return replace(
            self,
            whole=MappingProxyType(renamed_whole(self.whole, names)),
            modules=tuple(kept),
            _layouts=MappingProxyType({new: self._layouts[old] for new, old in kept.items()}),
            _source=RenamedSource(self._source, MappingProxyType(kept)),
        )

    def without_whole(self, names: Collection[str]) -> "Adapter":
        """The same update without some of its whole weights, which then count as left out."""
        if not names:
            return self
        left_out = sorted([*self.left_out, *(self.whole[name].key for name in names)])
        kept = {name: weight for name, weight in self.whole.items() if name not in names}
        return replace(self, whole=MappingProxyType(kept), left_out=tuple(left_out))

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the files that decide ΔW, by file name; empty for an adapter in memory.

        Those of the weights that training began with are called ``initial/<file name>``.
        """
        own = {} if self.path is None else adapter_fingerprints(self.path)
        began = {} if self.initial_path is None else adapter_fingerprints(self.initial_path)
        return own | {f"initial/{name}": digest for name, digest in began.items()}

    def save(
        self,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        ranks: Ranks = "uniform",
        force: bool = False,
        extra_files: Mapping[str, str] = MappingProxyType({}),
    ) -> Path:
        """Write a PEFT folder (see :func:`~.writing.write_adapter`); ``weight`` and ``role`` are not part of it.

        Args:
            path: folder to make.
            dtype: float16, bfloat16, float32 or float64; that of :meth:`factors` by default.
            ranks: ``uniform`` or ``pattern``, where the modules' ranks differ.
            force: replace an existing folder.
            extra_files: file name → text, written into the same folder.

        Returns:
            The folder.
        """
        return write_adapter(
            path,
            ((module, self.factors(module)) for module in self.modules),
            base_model=self.base_model,
            task_type=fitting_task_type(self.task_type, self.whole),
            dtype=dtype,
            ranks=ranks,
            whole=self.whole,
            modules_to_save=self.modules_to_save,
            force=force,
            extra_files=extra_files,
        )
