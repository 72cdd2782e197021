"""The Fisher information of a whole core space: one structure, one operator a module."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..core_space import CoreSpace
from ..errors import FisherError
from .structures import STRUCTURES, LayerFisher, SampleGradients
from .structures.base import require_shape

__all__ = ["Fisher", "fingerprint"]

_FORMAT = "sst_merge.fisher/1"


@dataclass(frozen=True, eq=False)
class Fisher:
    """Fisher information over the core matrices of all modules.

    Attributes:
        structure: ``diagonal``, ``kronecker``, ``block`` or ``lowrank``. The first three hold no correlation
            between modules; ``lowrank`` holds all of them.
        layers: module name to its operator.
        samples: N, the same in every layer.
        fingerprint: of the core spaces (:func:`fingerprint`); two Fishers can only be compared where it agrees.
        origin: how and where the gradients were taken; statistics of different origin do not add.

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

    def __post_init__(self) -> None:
        if self.structure not in STRUCTURES:
            raise FisherError(f"unknown Fisher structure {self.structure!r}; known: {', '.join(STRUCTURES)}")
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
            Every module's part of F·M, float64. With ``lowrank`` a module's part depends on all modules.

        Raises:
            FisherError: a module that this Fisher does not have, or a wrong shape.
        """
        unknown = sorted(set(cores) - set(self.layers))
        if unknown:
            raise FisherError(
                f"module {unknown[0]} (of {len(unknown)}) has no Fisher; it has {len(self.layers)} modules"
            )
        if self.structure == SampleGradients.structure:
            return self._matvec_across_layers(cores)
        return {
            module: layer.matvec(cores[module]) if module in cores else torch.zeros(layer.shape, dtype=torch.float64)
            for module, layer in self.layers.items()
        }

    def _matvec_across_layers(self, cores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        factors = {m: layer.factor() for m, layer in self.layers.items() if isinstance(layer, SampleGradients)}
        along = torch.zeros(self.samples, dtype=torch.float64)
        for module, core in cores.items():
            along += factors[module] @ require_shape(core, self.layers[module].shape).flatten()
        return {module: (along @ factor).reshape(self.layers[module].shape) for module, factor in factors.items()}

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
        return replace(self, layers=layers, samples=self.samples + other.samples)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, atomically; an existing file is replaced.

        Args:
            path: of the file; its folder must exist.
        """
        from safetensors.torch import save_file

        target = Path(path)
        header = {
            "format": _FORMAT,
            "structure": self.structure,
            "samples": self.samples,
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "layers": {m: {"counts": layer.counts(), "weight": layer.weight} for m, layer in self.layers.items()},
        }
        tensors = {
            f"{module}/{name}": tensor.contiguous()
            for module, layer in self.layers.items()
            for name, tensor in layer.tensors().items()
        }
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            save_file(tensors, partial, metadata={"sst_merge": json.dumps(header)})
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

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
                    raise FisherError(f"{path}: no Fisher file of this version (format {header.get('format')!r})")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no iterator)
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise FisherError(f"{path}: cannot be read as Fisher statistics ({error})") from error
        kind = STRUCTURES.get(header["structure"])
        if kind is None:
            raise FisherError(f"{path}: unknown Fisher structure {header['structure']!r}")
        by_module: dict[str, dict[str, Tensor]] = {module: {} for module in header["layers"]}
        for key, tensor in tensors.items():
            module, _, name = key.rpartition("/")
            by_module[module][name] = tensor
        layers: dict[str, LayerFisher] = {}
        for module, entry in header["layers"].items():
            try:
                layers[module] = kind.from_tensors(by_module[module], entry["counts"], entry["weight"])
            except (FisherError, KeyError, TypeError) as error:
                raise FisherError(f"{path}: module {module}: damaged statistics ({error})") from error
        return cls(header["structure"], layers, header["samples"], header["fingerprint"], header["origin"])


def fingerprint(spaces: Mapping[str, CoreSpace]) -> str:
    """SHA-256 over the module names, shapes and bases of core spaces.

    Args:
        spaces: module name to its core space.

    Returns:
        64 hexadecimal digits; equal exactly when core matrices mean the same updates.
    """
    digest = hashlib.sha256()
    for module in sorted(spaces):
        space = spaces[module]
        digest.update(f"{module}|{space.kind}|{space.bias}".encode())
        for basis in (space.left, space.right):
            digest.update(f"|{tuple(basis.shape)}|".encode())
            digest.update(basis.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
