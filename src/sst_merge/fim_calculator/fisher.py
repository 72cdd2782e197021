"""The Fisher information of a whole core space: one structure, one operator a module."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FisherError
from ..files import atomic_file
from .structures import Form, LayerFisher, find_structure, require_shape

__all__ = ["Fisher"]

_FORMAT = "sst_merge.fisher/2"


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

        Args:
            factor: positive.

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
        """Write one safetensors file, whole or not at all; an existing file is replaced.

        Args:
            path: of the file.
        """
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

        Args:
            path: of the file.

        Raises:
            FisherError: missing, not a Fisher file, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("sst_merge", "{}"))
                if header.get("format") != _FORMAT:
                    raise FisherError(
                        f"{path}: found format {header.get('format')!r}, expected {_FORMAT!r}; collect the statistics "
                        "again with `sst-merge fisher collect`"
                    )
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no iterator)
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise FisherError(f"{path}: cannot be read as Fisher statistics ({error})") from error
        try:
            kind = find_structure(header["structure"])
        except FisherError as error:
            raise FisherError(f"{path}: {error}") from error
        by_module: dict[str, dict[str, Tensor]] = {module: {} for module in header["layers"]}
        for key, tensor in tensors.items():
            module, _, name = key.rpartition("/")
            by_module[module][name] = tensor
        layers: dict[str, LayerFisher] = {}
        for module, entry in header["layers"].items():
            try:
                # JSON knows no tuples.
                stored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["counts"].items()}
                layers[module] = kind(weight=entry["weight"], **(stored | by_module[module]))
            except (FisherError, KeyError, TypeError) as error:
                raise FisherError(f"{path}: module {module}: damaged statistics ({error})") from error
        return cls(
            header["structure"],
            layers,
            header["samples"],
            header["fingerprint"],
            header["origin"],
            header["settings"],
        )
