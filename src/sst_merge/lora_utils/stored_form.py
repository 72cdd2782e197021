"""How an adapter lies on disk: scales, types, variant and size; none of it changes ΔW once it is read."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from .header import WEIGHTS_NAME, read_header
from .settings import read_settings

__all__ = ["StoredForm", "read_stored_form"]

_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class StoredForm:
    """What the folder says beside the factors.

    Attributes:
        scales: distinct scales s of ΔW = s·B·A, ascending; already part of the factors that are read.
        dtypes: distinct types of the LoRA tensors.
        variant: switched-on features: ``rslora``, ``rank_pattern``, ``alpha_pattern``, ``lora_bias``,
            ``fan_in_fan_out``, ``dora``.
        file_bytes: size of the safetensors file.
    """

    scales: tuple[float, ...]
    dtypes: tuple[str, ...]
    variant: tuple[str, ...]
    file_bytes: int


def read_stored_form(folder: Path, *, leave_out: Collection[str] = ()) -> StoredForm:
    """Describe a folder from its configuration and the header of its file; no tensor is read.

    Args:
        folder: of an adapter that was loaded.
        leave_out: modules that were left out then.
    """
    settings = read_settings(folder)
    # Whole trained weights were refused, or left out on purpose, when the adapter was loaded.
    modules = read_header(folder, settings, drop_modules_to_save=True, leave_out=leave_out).modules.values()
    file = folder / WEIGHTS_NAME
    with safe_open(file, framework="pt") as handle:
        dtypes = {_TYPES[handle.get_slice(key).get_dtype()] for entry in modules for key in entry.keys}
    switched = {
        "rslora": settings.rslora,
        "rank_pattern": bool(settings.rank_pattern),
        "alpha_pattern": bool(settings.alpha_pattern),
        "lora_bias": settings.lora_bias,
        "fan_in_fan_out": settings.fan_in_fan_out,
        "dora": settings.dora,
    }
    return StoredForm(
        scales=tuple(sorted({entry.scale for entry in modules})),
        dtypes=tuple(sorted(dtypes)),
        variant=tuple(name for name, on in switched.items() if on),
        file_bytes=file.stat().st_size,
    )
