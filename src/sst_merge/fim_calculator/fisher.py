"""The Fisher information of a whole core space: one structure, one operator a module."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FisherError
from ..files import atomic_file
from ..reading import parse_json, reading
from ..texts import shown
from .structures import Form, LayerFisher, find_structure, require_shape
from .structures.base import require_finite

__all__ = ["Fisher"]

_FORMAT = "sst_merge.fisher/2"
_COLLECT = "collect it again with `sst-merge fisher collect`"
_EXPECTED = "Fisher statistics"
_HEADER = {"structure": str, "samples": int, "fingerprint": str, "origin": str, "settings": dict, "layers": dict}


@dataclass(frozen=True, eq=False)
class Fisher:
    """Fisher information over the core matrices of all modules.

    Attributes:
        structure: name of a structure (:mod:`.structures`). Only one of form ``low-rank`` holds correlations between
            modules.
        layers: module name to its operator.
        samples: N, the same in every layer.
        fingerprint: of the core spaces (:func:`~.identity.fingerprint`); two Fishers can only be compared where it
            agrees.
        origin: estimator and a digest of the point; statistics of different origin do not add.
        settings: what else is known of how they were collected, plain values by name; kept in a sum where they agree.

    Raises:
        FisherError: unknown structure, no layers, or layers of another structure, sample count or weight.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, Fisher, compute_fim_harm
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)).eval()
        >>> def adapter(name, role):
        ...     factors = LoraFactors(torch.randn(8, 2), torch.randn(2, 8))
        ...     return Adapter.from_factors({"model.layers.0.mlp.up_proj": factors}, name=name, role=role)
        >>> code, safety = adapter("code", "utility"), adapter("safety", "safety")
        >>> def batch():
        ...     ids = torch.randint(16, (8, 5))
        ...     return Batch(ids, torch.ones_like(ids), ids.where(torch.arange(5) > 2, -100))
        >>> fisher = compute_fim_harm(model, [code, safety], [batch()], structure="kronecker", point="merged")
        >>> fisher.samples, list(fisher.layers)
        (8, ['model.layers.0.mlp.up_proj'])
        >>> fisher.save("harm.safetensors")
        >>> Fisher.load("harm.safetensors").samples
        8
    """

    structure: str
    layers: Mapping[str, LayerFisher]
    samples: int
    fingerprint: str
    origin: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        find_structure(self.structure)
        if not self.layers:
            raise FisherError("a Fisher without modules; no adapter touches any module that was asked for")
        weight = next(iter(self.layers.values())).weight
        for module, layer in self.layers.items():
            found = (layer.structure, layer.samples, layer.weight)
            if found != (self.structure, self.samples, weight):
                raise FisherError(
                    f"module {module}: (structure, samples, weight) {found}; the Fisher it is part of has "
                    f"{(self.structure, self.samples, weight)}"
                )

    @property
    def weight(self) -> float:
        """The factor beside the sums, the same in every layer."""
        return next(iter(self.layers.values())).weight

    @property
    def form(self) -> Form:
        """How the operators can be taken apart."""
        return next(iter(self.layers.values())).form

    def trace(self) -> float:
        """Sum of the traces of all modules."""
        return sum(layer.trace() for layer in self.layers.values())

    def scaled(self, factor: float) -> "Fisher":
        """Times a positive number, kept beside the sums.

        Raises:
            FisherError: not a positive number.
        """
        return replace(self, layers={module: layer.scaled(factor) for module, layer in self.layers.items()})

    def matvec(self, cores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """F applied to one core matrix per module.

        Args:
            cores: module name to M (p, q); a missing module is M = 0.

        Returns:
            Every module's part of F·M, float64; of form ``low-rank`` it depends on all modules.

        Raises:
            FisherError: a module that this Fisher does not have, or a wrong shape.
        """
        unknown = sorted(set(cores) - set(self.layers))
        if unknown:
            raise FisherError(
                f"module {unknown[0]} (of {len(unknown)}) has no Fisher; it has {len(self.layers)} modules"
            )
        if self.form == "low-rank":
            return self._matvec_across_layers(cores)
        return {
            module: layer.matvec(cores[module]) if module in cores else torch.zeros(layer.shape, dtype=torch.float64)
            for module, layer in self.layers.items()
        }

    def _matvec_across_layers(self, cores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        roots = {m: layer.root() for m, layer in self.layers.items()}
        along = torch.zeros(self.samples, dtype=torch.float64)
        for module, core in cores.items():
            along += roots[module] @ require_shape(core, self.layers[module].shape).flatten()
        return {module: (along @ root).reshape(self.layers[module].shape) for module, root in roots.items()}

    def __add__(self, other: "Fisher") -> "Fisher":
        """Statistics of both sets of samples together: the same as one run over all of them.

        Raises:
            FisherError: another structure, weight, origin, or other core spaces.
        """
        if other.fingerprint != self.fingerprint or set(other.layers) != set(self.layers):
            raise FisherError(
                "cannot add Fishers of different core spaces: they were collected for other adapters or modules "
                f"(fingerprints {self.fingerprint[:12]} and {other.fingerprint[:12]})"
            )
        if (other.structure, other.origin) != (self.structure, self.origin):
            raise FisherError(
                f"cannot add a Fisher of {other.structure} {other.origin!r} to one of {self.structure} {self.origin!r}"
            )
        layers = {module: layer + other.layers[module] for module, layer in self.layers.items()}
        settings = {k: v for k, v in self.settings.items() if k in other.settings and other.settings[k] == v}
        return replace(self, layers=layers, samples=self.samples + other.samples, settings=settings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all; an existing file is replaced."""
        from safetensors.torch import save_file

        header = {
            "format": _FORMAT,
            "structure": self.structure,
            "samples": self.samples,
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "settings": dict(self.settings),
            "layers": {m: {"counts": layer.counts(), "weight": layer.weight} for m, layer in self.layers.items()},
        }
        tensors = {
            f"{module}/{name}": tensor.contiguous()
            for module, layer in self.layers.items()
            for name, tensor in layer.tensors().items()
        }
        with atomic_file(Path(path)) as aside:
            save_file(tensors, aside, metadata={"sst_merge": json.dumps(header)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Fisher":
        """Read what :meth:`save` wrote.

        Raises:
            FisherError: missing, not a Fisher file, or damaged.
        """
        with reading(path, FisherError, _EXPECTED, _COLLECT):
            return cls._read(path)

    @classmethod
    def _read(cls, path: str | os.PathLike[str]) -> "Fisher":
        from safetensors import safe_open

        with safe_open(os.fspath(path), framework="pt") as file:
            header = _checked_header(path, parse_json((file.metadata() or {}).get("sst_merge", "{}")))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no iterator)
        with _told_of(path):
            kind = find_structure(header["structure"])
        by_module: dict[str, dict[str, Tensor]] = {module: {} for module in header["layers"]}
        for key, tensor in tensors.items():
            module, _, name = key.rpartition("/")
            if module not in by_module:
                raise FisherError(f"{path}: tensor {key!r} belongs to no module of its header; collect it again")
            by_module[module][name] = tensor
        layers: dict[str, LayerFisher] = {}
        for module, entry in header["layers"].items():
            where = f"{path}: module {module}"
            with reading(where, FisherError, _EXPECTED, _COLLECT), _told_of(where):
                layers[module] = _layer(kind, entry, by_module[module])
        names = ("samples", "fingerprint", "origin", "settings")
        with _told_of(path):
            return cls(header["structure"], layers, *(header[name] for name in names))


@contextmanager
def _told_of(where: object) -> Iterator[None]:
    """Say where an error of the statistics comes from.

    Raises:
        FisherError: with the place in front.
    """
    try:
        yield
    except FisherError as error:
        raise FisherError(f"{where}: {error}") from error


def _layer(kind: type[LayerFisher], entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LayerFisher:
    # JSON knows no tuples.
    stored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["counts"].items()}
    layer = kind(weight=entry["weight"], **(stored | dict(tensors)))
    _check_layer(layer)
    return layer


def _checked_header(path: object, header: Any) -> Mapping[str, Any]:
    """The header of a file of statistics, with every field of its type.

    Raises:
        FisherError: another format, or a field that is missing or of another type.
    """
    found = header.get("format") if isinstance(header, dict) else header
    if found != _FORMAT:
        raise FisherError(
            f"{path}: found format {shown(found)}, expected {_FORMAT!r}; collect the statistics again with "
            "`sst-merge fisher collect`"
        )
    for name, kind in _HEADER.items():
        value = header.get(name)
        # True is an integer for Python, and no count.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FisherError(f"{path}: header field {name} is {shown(value)}, expected {kind.__name__}; {_COLLECT}")
    for name, value in header["settings"].items():
        if not isinstance(value, str | int | float | list | dict | None):
            raise FisherError(f"{path}: setting {name!r} is {shown(value)}, expected a plain value; {_COLLECT}")
        if isinstance(value, float) and not math.isfinite(value):
            raise FisherError(f"{path}: setting {name!r} is {value}, expected a finite number; {_COLLECT}")
    share = header["settings"].get("share", 0.0)
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise FisherError(f"{path}: setting 'share' is {shown(share)}, expected a number from 0 to 1; {_COLLECT}")
    return header


def _check_layer(layer: LayerFisher) -> None:
    """Refuse statistics that every structure would refuse when it is made, whatever type the file has them in.

    Raises:
        FisherError: no float64 sums, NaN or Inf, or counts that are no whole numbers.
    """
    for name, tensor in layer.tensors().items():
        if not tensor.is_floating_point():
            raise FisherError(f"{name} is {tensor.dtype}, expected float64; {_COLLECT}")
        require_finite(name, tensor)
    for name, value in layer.counts().items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
            raise FisherError(f"{name} is {shown(value)}, expected whole numbers; {_COLLECT}")
    if min(layer.shape) < 1:
        raise FisherError(f"its core has shape {layer.shape}, expected at least 1 × 1; {_COLLECT}")
