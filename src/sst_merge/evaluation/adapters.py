"""Which adapters are evaluated: folders by name, checked against the base before anything is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import AdapterError, ConfigError
from ..folder_names import named_apart
from ..texts import is_text, shown

if TYPE_CHECKING:
    from ..lora_utils import Adapter, BaseModelIndex

__all__ = ["BASE_NAME", "EvaluatedAdapter", "adapted_modules", "check_adapters", "check_names", "find_adapters"]

BASE_NAME = "base"
_CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class EvaluatedAdapter:
    """One PEFT folder under evaluation.

    Attributes:
        name: as in tables; unique, and never ``base``.
        path: the folder.
        files: file name → SHA-256 of what decides the update.
        modules: canonical names of the modules it updates.
        rank: largest rank of a module.
        changes_nothing: whether its ΔW is exactly zero everywhere.
    """

    name: str
    path: Path
    files: Mapping[str, str]
    modules: tuple[str, ...]
    rank: int
    changes_nothing: bool


def find_adapters(named: Sequence[tuple[str | None, Path]], folders: Sequence[Path] = ()) -> dict[str, Path]:
    """Names and folders of all adapters asked for.

    A folder with adapter_config.json is one adapter; a folder that holds such folders, at any depth, is many, named by
    their path below it.

    Args:
        named: (name, folder) pairs; without a name, the folder's own, or its parents' where several share theirs.
        folders: folders with many.

    Returns:
        Name → folder, in the order given.

    Raises:
        AdapterError: a folder holds no adapter.
        ConfigError: a name twice, or the name ``base``.
    """
    found: list[tuple[str, Path]] = []
    unnamed: list[int] = []
    for name, path in named:
        if (path / _CONFIG).is_file():
            found.append((name or path.resolve().name, path))
            unnamed += [len(found) - 1] if name is None else []
        else:
            prefix = "" if name is None else f"{name}/"
            found += [(f"{prefix}{inner}", folder) for inner, folder in _below(path)]
    for folder in folders:
        found += _below(folder)
    given = [None if place in unnamed else name for place, (name, _) in enumerate(found)]
    apart = named_apart(given, [name for name, _ in found], [path.resolve() for _, path in found])
    found = [(name, path) for name, (_, path) in zip(apart, found, strict=True)]
    check_names(found)
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        paths = ", ".join(str(path) for name, path in found if name == twice[0])
        raise ConfigError(
            f"two adapters are called {twice[0]!r} ({paths}); give them names, as in --adapter NAME=FOLDER"
        )
    return dict(found)


def check_names(named: Iterable[tuple[str, Path]]) -> None:
    """Refuse names under which no record could be kept.

    Args:
        named: (name, folder) pairs.

    Raises:
        ConfigError: a name is empty, no Unicode text, or ``base``.
    """
    for name, path in named:
        if name == BASE_NAME:
            raise ConfigError(
                f"adapter {path}: the name {BASE_NAME!r} is the base model's own in every table; give another, as in "
                f"--adapter mine={path}"
            )
        if not name or not is_text(name):
            fault = "is no Unicode text, so no record could name it" if name else "is empty"
            raise ConfigError(
                f"adapter {path}: its name {shown(name)} {fault}; give another, as in --adapter NAME=FOLDER"
            )


def _below(folder: Path) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        raise AdapterError(f"{folder}: no such folder; expected a PEFT adapter, or a folder of adapters")
    found = sorted(file.parent for file in folder.rglob(_CONFIG))
    if not found:
        raise AdapterError(
            f"{folder}: neither it nor a folder below it has {_CONFIG}; expected a PEFT adapter, or a folder of "
            f"adapters"
        )
    return [("/".join(path.relative_to(folder).parts) or folder.resolve().name, path) for path in found]


def check_adapters(
    adapters: Mapping[str, Path], base: "BaseModelIndex", *, allow_noop: bool = False
) -> list[EvaluatedAdapter]:
    """Hold every adapter against the base, module by module, and fingerprint it; no model is loaded.

    Args:
        adapters: name → folder.
        base: the base model's layers.
        allow_noop: let adapters pass whose ΔW is exactly zero.

    Returns:
        The adapters, in the order given.

    Raises:
        AdapterError: an adapter that changes nothing.
    """
    from ..lora_utils import check_against_base

    checked = []
    for name, path in adapters.items():
        adapter = _opened(path, name)
        check_against_base(adapter, base)
        adapter.check_values()
        nothing = _changes_nothing(adapter)
        if nothing and not allow_noop:
            raise AdapterError(
                f"adapter {name!r} ({path}): ΔW is exactly zero in all {len(adapter.modules)} modules, so it would be "
                f"evaluated as the base; was it saved before training? To evaluate it anyway: --allow-noop"
            )
        checked.append(
            EvaluatedAdapter(
                name=name,
                path=path,
                files=adapter.fingerprints(),
                modules=adapter.modules,
                rank=max(adapter.rank(module) for module in adapter.modules),
                changes_nothing=nothing,
            )
        )
    return checked


def adapted_modules(adapters: Mapping[str, Path]) -> set[str]:
    """Names of all modules that some adapters touch, by name → folder; they decide which class the base is."""
    return {module for name, path in adapters.items() for module in _opened(path, name).modules}


def _opened(path: Path, name: str) -> "Adapter":
    """Open an adapter whose factors PEFT puts on the model as they are in the file.

    Raises:
        AdapterError: it is no plain LoRA, so that what is loaded could not be held against the file.
    """
    from ..lora_utils import Adapter

    # Whole trained weights are PEFT's business here: it loads them as they are.
    adapter = Adapter.load(path, name=name, drop_modules_to_save=True)
    if adapter.converted is not None:
        raise AdapterError(
            f"adapter {name!r} ({path}): a {adapter.converted.kind}; an evaluation holds what PEFT loads against the "
            f"file, which needs a plain LoRA. Write one: sst-merge export {path} --base BASE --to peft -o OUT"
        )
    return adapter


def _changes_nothing(adapter: "Adapter") -> bool:
    """Whether B·A is zero in every module; ‖BA‖² = ⟨BᵀB, AAᵀ⟩ needs no ΔW."""
    import torch

    if adapter.left_out:
        return False
    for module in adapter.modules:
        factors = adapter.factors(module, dtype=torch.float64)
        if not factors.b.any() or not factors.a.any():
            continue
        if bool(((factors.b.T @ factors.b) * (factors.a @ factors.a.T)).sum() != 0):
            return False
    return True
