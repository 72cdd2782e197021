"""A fine-tuned model minus its base, as a LoRA adapter: ΔW layer by layer, its best approximation of a rank.

One layer of both models is in memory at a time. What no LoRA holds (norms, biases, convolutions) is measured and said.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..data_loader import PLAIN, BaseAccess, empty_model
from ..errors import BaseModelError, ConversionError
from ..lora_utils import BaseModelIndex, BaseWeights, LoraFactors, ModuleShape, natural_key, write_adapter
from ..merging import compress_delta
from ..progress import Progress
from ..reading import reading
from ..threads import one_thread
from .for_base import parameters_of, stored_key

__all__ = ["ExtractedModule", "Extraction", "extract_adapter"]

_AGAIN = "download the model again"


@dataclass(frozen=True)
class ExtractedModule:
    """One module of the adapter.

    Attributes:
        rank: that was kept.
        energy: ‖W′ − W‖²_F.
        lost: share of it that the rank leaves out, from 0 to 1.
    """

    rank: int
    energy: float
    lost: float


@dataclass(frozen=True)
class Extraction:
    """What came out.

    Attributes:
        modules: module → its figures, for modules whose weights differ.
        same: number of modules whose weights are the base's.
        elsewhere: name of a tensor that no LoRA holds, or that was left out → ‖its difference‖²_F, where that is not 0.
    """

    modules: Mapping[str, ExtractedModule]
    same: int
    elsewhere: Mapping[str, float]

    @property
    def lost(self) -> float:
        """Share of the modules' energy that their ranks leave out."""
        energy = sum(module.energy for module in self.modules.values())
        return sum(module.energy * module.lost for module in self.modules.values()) / energy if energy > 0.0 else 0.0

    @property
    def elsewhere_share(self) -> float:
        """Share of the whole difference that lies in tensors without an update."""
        beside = sum(self.elsewhere.values())
        energy = beside + sum(module.energy for module in self.modules.values())
        return beside / energy if energy > 0.0 else 0.0


def extract_adapter(
    base: str | Path,
    model: str | Path,
    path: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: torch.dtype | None = None,
    leave_out: Collection[str] = (),
    force: bool = False,
    access: BaseAccess = PLAIN,
    extra_files: Mapping[str, str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> Extraction:
    """Write the adapter that makes of a base, as far as its rank allows, the fine-tuned model.

    Args:
        base: local folder with safetensors.
        model: local folder of the fine-tuned model, of the same architecture.
        path: PEFT folder to make.
        rank: keep at most this many singular values of each ΔW.
        energy: keep the fewest that hold this share of ‖ΔW‖²_F (0 < energy ≤ 1).
        dtype: type to write; float32 by default.
        leave_out: modules to leave out, by their names or the ends of their names.
        force: replace an existing folder.
        access: what may be read of the base.
        extra_files: file name → text.
        progress: told about modules.

    Raises:
        ConversionError: neither or both of rank and energy, or two models that are equal.
        BaseModelError: a folder that cannot be read, a quantised one, or layers of other shapes.
    """
    if (rank is None) == (energy is None):
        raise ConversionError("give either a rank (--rank 16) or a share of the energy (--energy 0.95)")
    if (rank is not None and rank < 1) or (energy is not None and not 0.0 < energy <= 1.0):
        raise ConversionError(f"rank {rank}, energy {energy}: expected a rank of at least 1, or a share in (0, 1]")
    pair = _Pair.of(base, model, leave_out, access)
    figures: dict[str, ExtractedModule] = {}

    def updates() -> Iterator[tuple[str, LoraFactors]]:
        for done, (module, shape) in enumerate(pair.modules.items(), start=1):
            delta = shape.kind.matrix(pair.difference(f"{module}.weight"))
            size = float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2
            if size > 0.0:
                factors, cut = compress_delta(delta, kind=shape.kind, bias=False, rank=rank, energy=energy)
                figures[module] = ExtractedModule(factors.rank, size, max(0.0, 1.0 - cut.kept_energy))
                yield module, factors
            if progress is not None:
                progress("modules", done, len(pair.modules))
        if not figures:
            raise ConversionError(
                f"{pair.model.folder}: no weight of a layer differs from {pair.base.folder}, nothing to extract"
            )

    with one_thread():
        write_adapter(
            path,
            updates(),
            base_model=str(base),
            task_type=pair.task_type,
            dtype=dtype or torch.float32,
            force=force,
            extra_files=extra_files,
        )
        beside = {name: pair.energy(name) for name in pair.beside}
    same = len(pair.modules) - len(figures)
    return Extraction(figures, same, {name: size for name, size in beside.items() if size > 0.0})


@dataclass(frozen=True)
class _Pair:
    """Two models of one architecture, opened but not read.

    Attributes:
        modules: layers whose difference becomes an update, in natural order.
        beside: names of all other parameters that the model's files hold.
        shared: name → all names of the same parameter, where it has several.
    """

    base: BaseWeights
    model: BaseWeights
    modules: Mapping[str, ModuleShape]
    beside: tuple[str, ...]
    shared: Mapping[str, tuple[str, ...]]
    task_type: str | None

    @classmethod
    def of(cls, base: str | Path, model: str | Path, leave_out: Collection[str], access: BaseAccess) -> "_Pair":
        built = empty_model(model, access=access)
        index = replace(BaseModelIndex.of(built.model, name=str(model)), class_name=built.class_name)
        ends = tuple(f".{name}" for name in leave_out)
        # Servers take no LoRA of convolutions: they count among what no LoRA holds.
        linear = [name for name, shape in index.modules.items() if shape.kind.dimensions == 2]
        modules = {name: index.modules[name] for name in sorted(linear, key=natural_key)}
        kept = {name: shape for name, shape in modules.items() if not f".{name}".endswith(ends)} if ends else modules
        if unknown := [name for name in leave_out if not any(f".{m}".endswith(f".{name}") for m in modules)]:
            raise ConversionError(
                f"--leave-out {unknown[0]}: {model} has no such layer; it has {next(iter(modules))!r}"
            )
        parameters, shared = parameters_of(built.model)
        held = {f"{module}.weight" for module in kept}
        # A tied parameter is counted once, under the first of its names.
        beside = [name for name in parameters if not held & {name, *shared.get(name, ())}]
        beside = [name for name in beside if shared.get(name, (name,))[0] == name]
        causal = "CausalLM" in built.class_name or "LMHead" in type(built.model).__name__
        return cls(
            BaseWeights.load(base),
            BaseWeights.load(model),
            kept,
            tuple(beside),
            shared,
            "CAUSAL_LM" if causal else None,
        )

    def difference(self, name: str) -> Tensor:
        """Model minus base, as both store it, in float32 (float64 where one of them has it).

        Raises:
            BaseModelError: one of them lacks the tensor, or has it in another shape or in no plain floats.
        """
        mine, theirs = self._read(self.model, name), self._read(self.base, name)
        if mine.shape != theirs.shape:
            raise BaseModelError(
                f"{self.model.folder}: {name!r} has shape {tuple(mine.shape)}, in the base {self.base.folder} it has "
                f"{tuple(theirs.shape)}; expected two models of one architecture. Leave it out (--leave-out), or name "
                f"the model's own base (--base)"
            )
        working = torch.promote_types(torch.float32, torch.promote_types(mine.dtype, theirs.dtype))
        return mine.to(working) - theirs.to(working)

    def energy(self, name: str) -> float:
        """‖model − base‖²_F of a tensor."""
        return float(torch.linalg.vector_norm(self.difference(name), dtype=torch.float64)) ** 2

    def _read(self, weights: BaseWeights, name: str) -> Tensor:
        key = stored_key(name, self.shared, weights)
        if key is None:
            raise BaseModelError(
                f"{weights.folder}: no tensor {name!r} among {len(weights.files)}; expected two models of one "
                f"architecture. Leave it out (--leave-out), or name the model's own base (--base)"
            )
        file = weights.folder / weights.files[key]
        with reading(f"{file}: tensor {key!r}", BaseModelError, "a weight", _AGAIN), _open(file) as handle:
            tensor: Tensor = handle.get_tensor(key)
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise BaseModelError(f"{file}: tensor {key!r} is {tensor.dtype}; give the unquantised model")
        return tensor


def _open(file: Path) -> Any:
    return safe_open(file, framework="pt")
