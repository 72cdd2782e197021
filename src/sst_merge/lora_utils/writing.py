"""Factors in memory → a PEFT folder that PEFT, vLLM and llama.cpp read alike (design, section 6).

Modules arrive one at a time and their tensors go straight to disk (:mod:`.tensor_file`). What was written is opened
again before it gets its name (:mod:`.opening`).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from ..errors import AdapterError
from ..files import atomic_folder
from .entries import natural_key
from .expected_file import ExpectedFile, Ranks
from .expert_files import ExpertFile
from .experts import ExpertKind
from .factors import LoraFactors
from .file_factors import factor_parts, factor_tensors
from .header import PREFIX, WEIGHTS_NAME
from .layouts import ModuleKind
from .opening import check_opens
from .patterns import ModulePatterns
from .settings import CONFIG_NAME
from .tensor_file import TensorFile
from .whole_weights import WholeWeight

__all__ = ["write_adapter", "write_adapter_files"]

_NO_WEIGHTS: Mapping[str, WholeWeight] = MappingProxyType({})


def write_adapter(
    path: str | Path,
    modules: Iterable[tuple[str, LoraFactors]],
    *,
    base_model: str | None,
    task_type: str | None,
    dtype: torch.dtype | None = None,
    ranks: Ranks = "uniform",
    whole: Mapping[str, WholeWeight] = _NO_WEIGHTS,
    modules_to_save: tuple[str, ...] = (),
    force: bool = False,
    extra_files: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a PEFT adapter folder, all or nothing; same modules in the same order give the same bytes.

    Every scale is in B and ``lora_alpha = r``. Where ranks differ, every module gets the largest one by rows of zeros
    in A and columns of zeros in B: ΔW is the same, and a reader need not know ``rank_pattern``, which PEFT does not
    look at for fused experts and llama.cpp nowhere.

    Args:
        path: folder to make.
        modules: (canonical module name, factors), each module once; consumed one at a time.
        base_model: written as ``base_model_name_or_path``.
        task_type: PEFT's task type.
        dtype: float16, bfloat16, float32 or float64; the factors' own (then one for all modules) by default.
        ranks: ``uniform`` as above, or ``pattern``: each module keeps its rank, and ``rank_pattern`` with an equal
            ``alpha_pattern`` says so. Smaller, and right for PEFT's linear layers and vLLM.
        whole: canonical tensor name → whole weight that is copied into the file.
        modules_to_save: PEFT's field of that name; each name must have tensors in ``whole``.
        force: replace an existing folder.
        extra_files: file name → text, written into the same folder.

    Returns:
        The folder.

    Raises:
        AdapterError: no modules, a module twice, values that are not finite or do not fit ``dtype``, types mixed, a
            bias beside a kind of layer without (an embedding), which PEFT cannot hold in one adapter, or files that
            PEFT could not open (:func:`~.opening.check_opens`).
    """
    if reserved := {CONFIG_NAME, WEIGHTS_NAME} & extra_files.keys():
        raise AdapterError(f"{path}: extra file {sorted(reserved)} is written by the adapter itself; use another name")
    if bad := [name for name in extra_files if Path(name).name != name]:
        raise AdapterError(f"{path}: extra files {bad} are not plain file names; expected names without a folder")
    with atomic_folder(path, force=force) as folder:
        write_adapter_files(
            folder,
            modules,
            base_model=base_model,
            task_type=task_type,
            dtype=dtype,
            ranks=ranks,
            whole=whole,
            modules_to_save=modules_to_save,
        )
        for name, text in extra_files.items():
            (folder / name).write_text(text, encoding="utf-8")
    return Path(path)


def write_adapter_files(
    folder: Path,
    modules: Iterable[tuple[str, LoraFactors]],
    *,
    base_model: str | None,
    task_type: str | None,
    dtype: torch.dtype | None = None,
    ranks: Ranks = "uniform",
    whole: Mapping[str, WholeWeight] = _NO_WEIGHTS,
    modules_to_save: tuple[str, ...] = (),
    expected: ExpectedFile | None = None,
) -> tuple[int, torch.dtype]:
    """Write the two files of a PEFT adapter into a folder that is there, and open them; see :func:`write_adapter`.

    Args:
        folder: one that its maker finishes or removes (:func:`~sst_merge.files.atomic_folder`).
        modules: (canonical module name, factors), each module once; consumed one at a time.
        base_model: written as ``base_model_name_or_path``.
        task_type: PEFT's task type.
        dtype: as in :func:`write_adapter`.
        ranks: as in :func:`write_adapter`.
        whole: as in :func:`write_adapter`.
        modules_to_save: as in :func:`write_adapter`.
        expected: how the modules will most likely come; the file is the same without. Those that
            :meth:`ExpectedFile.write` took come on the device ``meta``.

    Returns:
        r of the configuration, and the type of the factors.
    """
    data = folder / ".data"
    with data.open("wb") as stream:
        foretold = None if expected is None or whole else expected.opened(data)
        tensors = TensorFile(stream, dtype, foretold)
        layout = _write_modules(tensors, modules)
        for name, weight in sorted(whole.items(), key=lambda item: natural_key(item[0])):
            tensors.copy(f"{PREFIX}{name}", weight)
    tensors.finish(folder / WEIGHTS_NAME, data, rank=layout.r if ranks == "uniform" else None)
    config = _config(layout, ranks, base_model, task_type, modules_to_save)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    check_opens(folder, modules=layout.ranks, whole=whole)
    assert tensors.dtype is not None  # there is no adapter without tensors
    return layout.r, tensors.dtype


@dataclass(frozen=True)
class _Layout:
    """What the configuration has to say: rank of every module, and the switches that hold for all.

    Attributes:
        ranks: of all modules.
        parameters: rank of bare parameters, by their names.
        layers: names of those modules that are layers.
        fan_in_fan_out: of all.
        bias: of all.
    """

    ranks: dict[str, int]
    parameters: dict[str, int]
    layers: tuple[str, ...]
    fan_in_fan_out: bool
    bias: bool

    @property
    def r(self) -> int:
        return max(self.ranks.values())


def _write_modules(tensors: TensorFile, modules: Iterable[tuple[str, LoraFactors]]) -> _Layout:
    ranks: dict[str, int] = {}
    outputs: dict[str, int] = {}
    kinds: dict[str, ModuleKind] = {}
    biased: set[str] = set()
    parameters: dict[str, int] = {}
    experts = ExpertFile(tensors, PREFIX)
    requested = tensors.dtype
    for module, factors in modules:
        if module in ranks:
            raise AdapterError(f"module {module!r} occurs twice; expected each module once")
        if requested is None and tensors.dtype not in {None, factors.b.dtype}:
            raise AdapterError(
                f"module {module!r} has type {factors.b.dtype}, the modules before it {tensors.dtype}; name one dtype "
                f"to write them all in"
            )
        a, b, bias = factor_parts(factors)
        ranks[module], outputs[module], kinds[module] = b.shape[1], b.shape[0], factors.kind
        if isinstance(factors.kind, ExpertKind):
            experts.add(module, factors.kind, a, b)
            continue
        if factors.kind.bare:
            parameters[factors.kind.tensor_name(module)] = b.shape[1]
        for key, tensor, rank_dimension in factor_tensors(module, factors.kind, a, b):
            tensors.write(key, tensor, rank_dimension=rank_dimension)
        if bias is not None:
            tensors.write(_bias_key(module, factors.kind), bias)
            biased.add(module)
    experts.finish()
    if not ranks:
        raise AdapterError("no modules to write; expected the factors of at least one")
    unbiased = [module for module, kind in kinds.items() if not kind.can_have_bias]
    if biased and unbiased:
        found = f"module {unbiased[0]!r} is {kinds[unbiased[0]].described}"
        raise AdapterError(
            f"{found} and {min(biased)!r} has a LoRA bias: PEFT cannot "
            f"hold both in one adapter (lora_bias is one switch for all); leave one of them out of the merge"
        )
    if biased:
        # lora_bias is one switch for the whole adapter: the others need a bias too, of zeros.
        for module in [name for name in ranks if name not in biased]:
            tensors.write(_bias_key(module, kinds[module]), torch.zeros(outputs[module]))
    layers = tuple(module for module, kind in kinds.items() if not kind.bare)
    transposed = any(kind.fan_in_fan_out for kind in kinds.values())
    if transposed and len(layers) < len(kinds):
        raise AdapterError(
            "layers of Conv1D and bare parameters (fused experts, routers) in one adapter, which PEFT cannot hold "
            "(fan_in_fan_out is one switch for all); leave one of them out of the merge (--leave-out)"
        )
    return _Layout(ranks, parameters | experts.ranks, layers, transposed, bool(biased))


def _bias_key(module: str, kind: ModuleKind) -> str:
    return f"{PREFIX}{module}.{kind.form.b}.bias"


def _config(
    layout: _Layout, ranks: Ranks, base_model: str | None, task_type: str | None, modules_to_save: tuple[str, ...]
) -> dict[str, object]:
    r = layout.r
    asked = {module: layout.ranks[module] for module in layout.layers} | layout.parameters
    pattern = _rank_pattern(asked, r) if ranks == "pattern" else {}
    bare = {"target_parameters": sorted(layout.parameters, key=natural_key)} if layout.parameters else {}
    return {
        "alpha_pattern": pattern,
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": layout.fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": r,
        "lora_bias": layout.bias,
        "lora_dropout": 0.0,
        "modules_to_save": sorted(set(modules_to_save)) or None,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": pattern,
        "target_modules": sorted(layout.layers, key=natural_key),
        **bare,
        "task_type": task_type,
        "use_dora": False,
        "use_rslora": False,
    }


def _rank_pattern(ranks: Mapping[str, int], r: int) -> dict[str, int]:
    """Exceptions from r: plain module names, or anchored ones where PEFT's suffix matching would confuse two."""
    names = sorted((module for module, rank in ranks.items() if rank != r), key=natural_key)
    plain = {module: ranks[module] for module in names}
    read = ModulePatterns(plain)
    if all((r if (found := read.find(module)) is None else int(found)) == rank for module, rank in ranks.items()):
        return plain
    return {f"^{re.escape(module)}": ranks[module] for module in names}
