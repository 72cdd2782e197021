"""What one of several processes has collected of a Fisher, in a file: a run that is started again goes on from it."""

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import processes
from .._version import __version__
from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from .fisher import Fisher
from .identity import fingerprint
from .structures import LayerFisher

__all__ = ["KeptParts", "parts_beside", "remove_parts"]

_EVERY = 60.0
"""Seconds between two writes of a part that still grows."""

_LOOKED_AT = 16
"""Numbers of every weight that are part of the name: another base, or a fine-tuned one, has others."""


def parts_beside(output: Path) -> Path | None:
    """The folder of the parts of what is to be written to a place; None for one process, which keeps none.

    Args:
        output: file or folder.

    Returns:
        A hidden folder beside it.
    """
    return output.absolute().with_name(f".{output.name}.parts") if processes.count() > 1 else None


def remove_parts(folder: Path | None) -> None:
    """Remove the folder with all that is in it, also of a run of other processes that was killed: the output is there.

    Where every machine has a disk of its own, all but the first one's lose the parts of this run's processes alone.

    Args:
        folder: of :func:`parts_beside`.
    """
    if folder is None:
        return
    # On one disk somebody else may be removing the same at this moment.
    if processes.is_first():
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(OSError):
        for file in folder.glob(f"*-{processes.name()}.safetensors"):
            file.unlink(missing_ok=True)
        folder.rmdir()


@dataclass
class KeptParts:
    """One file, named by everything that decides what is in it.

    Attributes:
        path: of the file.
        structure: of the statistics.
        fingerprint: of the core spaces.
    """

    path: Path
    structure: str
    fingerprint: str
    _written: float = field(default_factory=time.monotonic, repr=False)

    @classmethod
    def of(
        cls,
        folder: Path,
        model: nn.Module,
        spaces: Mapping[str, CoreSpace],
        batches: Sequence[Batch],
        *,
        point: Mapping[str, Tensor] | None,
        structure: str,
        estimator: str,
        generator: torch.Generator | None,
    ) -> "KeptParts":
        """The file of this process's part of one Fisher.

        Args:
            folder: where parts lie.
            model: the base.
            spaces: of the modules that are looked at.
            batches: of all processes.
            point: cores at which gradients are taken.
            structure: of the statistics.
            estimator: what is differentiated.
            generator: draws labels, or None.

        Returns:
            The file, which need not be there.
        """
        digest = hashlib.sha256(f"{__version__}|{structure}|{estimator}|{processes.name()}".encode())
        for module, space in spaces.items():
            digest.update(f"|{module}|{space.kind}|{space.bias}".encode())
            _add(digest, space.left, space.right)
        for module, core in sorted((point or {}).items()):
            digest.update(f"|{module}".encode())
            _add(digest, core)
        for batch in batches:
            _add(digest, batch.input_ids, batch.attention_mask, batch.labels)
        if generator is not None:
            _add(digest, generator.get_state())
        for name, weight in model.named_parameters():
            digest.update(f"|{name}|{tuple(weight.shape)}|{weight.dtype}".encode())
            if weight.device.type != "meta":
                step = max(1, weight.numel() // _LOOKED_AT)
                _add(digest, weight.detach().reshape(-1)[::step][:_LOOKED_AT])
        file = folder / f"{digest.hexdigest()[:24]}-{processes.name()}.safetensors"
        return cls(file, structure, fingerprint(spaces))

    def load(self) -> tuple[dict[str, LayerFisher] | None, int]:
        """What is there.

        Returns:
            The part, and of how many batches it is; nothing and 0 where there is no file.
        """
        if not self.path.exists():
            return None, 0
        found = Fisher.load(self.path)
        return dict(found.layers), int(found.settings["batches"])

    def save_when_due(self, part: Mapping[str, LayerFisher], batches: int) -> None:
        """Write the part if the last write is long enough ago.

        Args:
            part: so far.
            batches: of which it is.
        """
        if time.monotonic() - self._written >= _EVERY:
            self.save(part, batches)

    def save(self, part: Mapping[str, LayerFisher], batches: int) -> None:
        """Write the part.

        Args:
            part: so far.
            batches: of which it is.
        """
        samples = next(iter(part.values())).samples
        settings = {"batches": batches}
        Fisher(self.structure, part, samples, self.fingerprint, settings=settings).save(self.path)
        self._written = time.monotonic()


def _add(digest: "hashlib._Hash", *tensors: Tensor) -> None:
    for tensor in tensors:
        digest.update(tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy().tobytes())
