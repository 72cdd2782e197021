"""What a merge says about itself: deterministic provenance and figures, no clock and no machine in it."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..core_space import Truncation, effective_rank
from ..lora_utils import Adapter
from .calibration_record import CalibrationRecord

__all__ = ["AdapterRecord", "MergeReport", "ModuleFigures", "package_versions"]

_FORMAT = "sst_merge.merge_report/1"


@dataclass(frozen=True)
class AdapterRecord:
    """One input of the merge.

    Attributes:
        name: as in the configuration.
        role: ``utility`` or ``safety``.
        weight: factor in the merge.
        path: folder as given where that was relative, else its last name; of one from the hub the repository; None for
            an adapter in memory.
        base_model: base that its configuration names.
        task_type: that its configuration names.
        files: file name → SHA-256.
    """

    name: str
    role: str
    weight: float
    path: str | None
    base_model: str | None
    task_type: str | None
    files: Mapping[str, str]

    @classmethod
    def of(cls, adapter: Adapter) -> "AdapterRecord":
        """Describe an adapter; reads its files once for their SHA-256."""
        return cls(
            name=adapter.name,
            role=adapter.role,
            weight=adapter.weight,
            path=_recorded_path(adapter.path) if adapter.origin is None else adapter.origin.name,
            base_model=adapter.base_model,
            task_type=adapter.task_type,
            files=adapter.fingerprints(),
        )


@dataclass(frozen=True)
class ModuleFigures:
    """One merged module in numbers.

    Attributes:
        rank: of the written update.
        kept_energy: share of the merged ‖ΔW‖²_F that is written; 1 where nothing was cut.
        norm: ‖ΔW‖_F of the written update.
        effective_rank: exp(entropy of σ/Σσ) of the merged update (Roy and Vetterli, EUSIPCO 2007); None where not all
            of its singular values were computed.
        core_shape: shape of the matrix that the method saw, (p, q) or (d_out, d_in); of factors side by side, the sum
            of the ranks twice.
    """

    rank: int
    kept_energy: float
    norm: float
    effective_rank: float | None
    core_shape: tuple[int, int]

    @classmethod
    def of(cls, truncation: Truncation, core_shape: tuple[int, int]) -> "ModuleFigures":
        """Figures of one module."""
        values = truncation.singular_values.double().cpu()
        norm = float(values[: truncation.rank].square().sum().sqrt())
        rank = effective_rank(values) if truncation.complete else None
        return cls(truncation.rank, truncation.kept_energy, norm, rank, core_shape)


@dataclass(frozen=True)
class MergeReport:
    """``merge_report.json``: same inputs and seed, same text.

    Attributes:
        method: name of the method.
        paper: where it comes from.
        options: all its options, defaults included.
        seed: of every random choice.
        rank: largest rank asked for, or None.
        energy: share of ‖ΔW‖² asked for, or None.
        compute_dtype: type of the computation.
        base_model: base that the output names.
        adapters: the inputs.
        modules: module name → figures.
        method_report: what the method says about its own work (Fisher figures, path of μ, ...).
        warnings: sentences for the user.
        versions: of the packages that decide the numbers.
        calibration: data that the method could read: ``harm``, ``benign``, ``benign of NAME`` → number and SHA-256;
            empty where none was given.
        output: type, largest rank, task type and SHA-256 of the written files; empty before writing.
        provenance: where base and data come from: class, revision and commit of the base, what was allowed to be read
            of it, revisions of data sets and adapters of the hub; empty where there is nothing to say.
        whole_weights: tensor name → adapter and shape of what is written as it is (heads, embeddings).
        threads: that the algebra ran on; a model's own passes, which some methods need, take as many as torch has.
    """

    method: str
    paper: str
    options: Mapping[str, Any]
    seed: int
    rank: int | None
    energy: float | None
    compute_dtype: str
    base_model: str | None
    adapters: tuple[AdapterRecord, ...]
    modules: Mapping[str, ModuleFigures]
    method_report: Mapping[str, Any]
    warnings: tuple[str, ...]
    versions: Mapping[str, str]
    calibration: Mapping[str, CalibrationRecord] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    whole_weights: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: one key per attribute, after ``format``."""
        plain: dict[str, Any] = {"format": _FORMAT}
        for item in fields(self):
            plain[item.name] = _plain(getattr(self, item.name))
        return plain


def _recorded_path(path: Path | None) -> str | None:
    """A path as a report may hold it: of an absolute one, which says where it lay on one machine, the last name."""
    if path is None:
        return None
    return path.name if path.is_absolute() else path.as_posix()


def package_versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {
        "sst_merge": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "safetensors": _installed("safetensors"),
        "pydantic": _installed("pydantic"),
    }


@cache
def _installed(package: str) -> str:
    """The version from the package's metadata, which are searched on the whole path: once a process."""
    return version(package)


def _plain(value: Any) -> Any:
    if isinstance(value, AdapterRecord | CalibrationRecord | ModuleFigures):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value
