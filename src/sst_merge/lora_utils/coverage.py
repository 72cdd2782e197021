"""Which of an adapter's modules PEFT would give a LoRA to: it asks the configuration, not the tensors.

PEFT builds layers where ``target_modules``, ``exclude_modules``, ``layers_to_transform`` and ``layers_pattern`` say so
and loads what fits; tensors of other modules are dropped without a word (``check_target_module_exists`` in PEFT).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .linear_match import full_matcher, is_cheap

__all__ = ["Coverage"]

_ALL_LINEAR = "all-linear"
_OUTPUT_HEADS = frozenset({"lm_head", "embed_out"})  # left out by "all-linear"


@dataclass(frozen=True)
class Coverage:
    """What the configuration says about the modules.

    Attributes:
        target_modules: names or ends of names, one regular expression, or None where PEFT has a table of its own.
        exclude_modules: the same.
        layers: numbers of layers that are adapted, or None for all.
        layers_patterns: names of the list of layers; any by default.
        saved_whole: ``modules_to_save``, which get no LoRA.
    """

    target_modules: frozenset[str] | str | None
    exclude_modules: frozenset[str] | str
    layers: tuple[int, ...] | None
    layers_patterns: tuple[str, ...]
    saved_whole: tuple[str, ...]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Coverage":
        """Take the fields of an adapter_config.json; what has another type than PEFT's says nothing."""
        target, exclude, pattern = (raw.get(field) for field in ("target_modules", "exclude_modules", "layers_pattern"))
        if not isinstance(target, (str, list)):
            target = None
        layers = raw.get("layers_to_transform")
        numbers = [layers] if isinstance(layers, int) else layers if isinstance(layers, list) else []
        return cls(
            target_modules=frozenset(_texts(target)) if isinstance(target, list) else target or None,
            exclude_modules=exclude if isinstance(exclude, str) else frozenset(_texts(exclude)),
            layers=tuple(number for number in numbers if isinstance(number, int)) or None,
            layers_patterns=(pattern,) if isinstance(pattern, str) and pattern else _texts(pattern),
            saved_whole=_texts(raw.get("modules_to_save")),
        )

    def covers(self, module: str, *, embedding: bool = False) -> bool | None:
        """Whether PEFT puts a LoRA on a module.

        Args:
            module: its name in the base model.
            embedding: whether it is an embedding, which "all-linear" leaves out.

        Returns:
            None where it cannot be said: no ``target_modules``, or an expression that cannot be tried
            (:mod:`.linear_match`).
        """
        excluded = self.excludes(module)
        if self._matchers is None or excluded is None:
            return None
        if excluded:
            return False
        if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.saved_whole):
            return False
        if self.target_modules is None:
            return None
        if isinstance(self.target_modules, str):
            if not self.names_modules:
                return not embedding and module.rpartition(".")[2] not in _OUTPUT_HEADS
            return self._matchers[0](module)
        if module in self.target_modules:
            return True
        return _ends_with(module, self.target_modules) and (self.layers is None or self._layer(module) in self.layers)

    def excludes(self, module: str) -> bool | None:
        """Whether ``exclude_modules`` names a module; None where :attr:`is_tried` says no."""
        if self._matchers is None:
            return None
        if isinstance(self.exclude_modules, str):
            return bool(self.exclude_modules) and self._matchers[1](module)
        return _ends_with(module, self.exclude_modules)

    @property
    def is_tried(self) -> bool:
        """Whether every expression can be tried (:mod:`.linear_match`)."""
        return self._matchers is not None

    @property
    def names_modules(self) -> bool:
        """Whether ``target_modules`` says by names or an expression which modules are meant."""
        target = self.target_modules
        return target is not None and not (isinstance(target, str) and target.lower() == _ALL_LINEAR)

    def _layer(self, module: str) -> int | None:
        """The module's number of layer as PEFT finds it."""
        patterns = [rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\." for p in self.layers_patterns] or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
        match = next((found for pattern in patterns if (found := re.match(pattern, module))), None)
        return None if match is None else int(match["idx"])

    @cached_property
    def _matchers(self) -> tuple[Callable[[str], bool], Callable[[str], bool]] | None:
        """What tries target_modules and exclude_modules where they are expressions; None where one cannot be tried."""
        # Of these PEFT wants a part of what matched, or sets them into a longer expression.
        if not all(is_cheap(pattern) for pattern in (*self.layers_patterns, *self.saved_whole)):
            return None
        fields = (self.target_modules, self.exclude_modules)
        try:
            targeted, excluded = (full_matcher(field if isinstance(field, str) else "") for field in fields)
        except ValueError:
            return None
        return targeted, excluded


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()


def _ends_with(module: str, names: frozenset[str]) -> bool:
    segments = module.split(".")
    return any(".".join(segments[start:]) in names for start in range(len(segments)))
