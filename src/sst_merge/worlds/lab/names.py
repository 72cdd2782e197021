"""``lab:unaligned`` and ``lab:reverse`` in place of folders: the lab's own models and adapters."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError

if TYPE_CHECKING:
    from . import Lab

__all__ = ["LabNames", "is_lab_name"]

_PREFIX = "lab:"


def is_lab_name(text: str) -> bool:
    """Whether a base or adapter is one of the lab's.

    Args:
        text: as on the command line.

    Returns:
        The truth value.
    """
    return text.startswith(_PREFIX)


@dataclass(frozen=True)
class LabNames:
    """A base of the lab, and where its adapters lie.

    Attributes:
        base: ``unaligned`` or ``aligned``.
        seed: of the lab.
    """

    base: str
    seed: int

    @classmethod
    def of(cls, text: str) -> "LabNames":
        """Read ``lab:BASE`` or ``lab:BASE:SEED``.

        Args:
            text: as on the command line.

        Returns:
            Base and seed.

        Raises:
            ConfigError: another form, or no such base.
        """
        from ..world import BASES

        name, seed = _parts(text)
        if name not in BASES:
            raise ConfigError(f"base {text!r}: the lab has the bases {', '.join(BASES)}, as in lab:{BASES[0]}")
        return cls(name, seed)

    @property
    def lab(self) -> "Lab":
        """The lab of this seed."""
        from . import load_lab

        return load_lab(self.seed)

    @property
    def base_path(self) -> Path:
        """Folder of the base; trained first where it is missing."""
        return self.lab.base_path(self.base)

    def adapter(self, text: str) -> tuple[str, Path]:
        """Name and folder of ``lab:NAME`` or ``lab:NAME:SEED``; trained first where it is missing.

        Args:
            text: as on the command line.

        Returns:
            The adapter's name and folder.
        """
        name, seed = _parts(text)
        label = name if seed == 0 else f"{name}-seed{seed}"
        return label, self.lab.adapter_path(name, base=self.base, seed=seed)


def _parts(text: str) -> tuple[str, int]:
    name, _, seed = text.removeprefix(_PREFIX).partition(":")
    if not name or not (seed == "" or seed.isdecimal()):
        raise ConfigError(f"{text!r}: expected lab:NAME or lab:NAME:SEED, such as lab:unaligned")
    return name, int(seed or 0)
