"""PEFT's configuration of an adapter, with every pattern in it replaced by the names that it stands for.

PEFT tries the regular expressions of a stranger's file with Python's engine, for which ``(.*)*x`` is work without
end. Here they are matched in linear time (:mod:`..lora_utils.linear_match`); what PEFT gets are literal names of the
base's modules, so that it builds the same layers.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import AdapterError
from ..lora_utils.linear_match import is_cheap
from ..lora_utils.patterns import ModulePatterns
from ..lora_utils.settings import CONFIG_NAME, read_settings
from ..texts import shown

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

__all__ = ["resolved_config"]


def resolved_config(folder: Path, base: "nn.Module", modules: Sequence[str]) -> "LoraConfig":
    """Read an adapter's configuration for one base.

    ``target_modules``, ``exclude_modules``, ``layers_to_transform`` and ``layers_pattern`` become one list of names,
    ``rank_pattern`` and ``alpha_pattern`` one literal pattern for each value. ``all-linear`` and a missing
    ``target_modules`` are no patterns and stay, for PEFT has rules of its own for them. Where an expression cannot be
    tried in linear time (one that looks ahead, say), the tensors decide which modules are meant.

    Args:
        folder: of the adapter.
        base: the model that PEFT is to put it on.
        modules: of which the adapter holds tensors, by their names in the base.

    Returns:
        PEFT's configuration.

    Raises:
        AdapterError: no module of the base is left, or ``modules_to_save`` holds an expression.
    """
    from peft import LoraConfig

    settings, file = read_settings(folder), folder / CONFIG_NAME
    if hard := [name for name in settings.modules_to_save if not is_cheap(name)]:
        raise AdapterError(
            f"{file}: modules_to_save holds {shown(hard[0])}, expected names of modules; an expression is not tried "
            f"there, for it could take for ever. Write the names"
        )
    config: LoraConfig = LoraConfig.from_pretrained(str(folder))
    coverage, names = settings.coverage, [name for name, _ in base.named_modules() if name]
    if coverage.names_modules or not coverage.is_tried:
        targeted = [name for name in names if coverage.covers(name)] if coverage.is_tried else modules
        if not targeted and not settings.target_parameters:
            raise AdapterError(
                f"{file}: target_modules, exclude_modules and layers_to_transform leave none of this base's modules, "
                f"so PEFT would load nothing; compare them with the names of the tensors, and the adapter with the base"
            )
        config.target_modules = _literal(targeted) if targeted else set()
        config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    else:
        excluded = [name for name in names if coverage.excludes(name)]
        config.exclude_modules = _literal(excluded) if excluded else None
    # PEFT asks them of bare parameters, too.
    asked = [*names, *(name for name, _ in base.named_parameters())]
    config.rank_pattern = _by_value(settings.rank_pattern, asked)
    config.alpha_pattern = _by_value(settings.alpha_pattern, asked)
    return config


def _by_value(patterns: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """One pattern for each value, which matches the whole names that have it."""
    found = ModulePatterns(patterns)
    named: dict[float, list[str]] = defaultdict(list)
    for name in names:
        value = found.find(name)
        if value is not None:
            named[value].append(name)
    # PEFT lets anything up to a dot stand before a pattern; ``^`` forbids it.
    return {f"^{_literal(those)}": value for value, those in named.items()}


def _literal(names: Iterable[str]) -> str:
    """An expression that matches some names and nothing else."""
    return f"(?:{'|'.join(re.escape(name) for name in names)})"
