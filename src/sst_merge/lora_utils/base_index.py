"""Names and shapes of a base model's layers, from its config.json; no weight is read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from torch import nn

from ..data_loader import PLAIN, BaseAccess, empty_model
from ..data_loader.base_files import find_base_repo
from ..errors import BaseModelError
from ..reading import reads
from .experts import bare_parameters
from .layouts import ModuleKind, ModuleShape, shape_of_layer

__all__ = ["BaseModelIndex"]


@dataclass(frozen=True)
class BaseModelIndex:
    """All adaptable layers of a base model.

    Attributes:
        name: hub id or folder that it was made from.
        modules: module name, as in ``model.named_modules()``, → shape.
        others: names of modules of no known kind (:mod:`.layouts`), with their class, for messages.
        class_name: class of transformers that it was built as; None for a model that was there already.
        commit: of the hub repository that its configuration comes from, as far as known.
        bare: parameters that no such layer owns, by the names that adapters have for them (:mod:`.experts`) → shape.
        parameters: numbers that its weights have, shared ones counted once.
        dtype: type that its configuration names for them, such as ``bfloat16``; None where it names none.
    """

    name: str
    modules: Mapping[str, ModuleShape]
    others: Mapping[str, str]
    class_name: str | None = None
    commit: str | None = None
    bare: Mapping[str, ModuleShape] = field(default_factory=dict)
    parameters: int = 0
    dtype: str | None = None

    @classmethod
    @reads(BaseModelError, "the configuration of a base model", "check base_model (--base-model)", at=1)
    def load(
        cls,
        base: str | Path,
        *,
        modules: Collection[str] = (),
        task_type: str | None = None,
        generative: bool = False,
        access: BaseAccess = PLAIN,
    ) -> "BaseModelIndex":
        """Build the model that a configuration describes on the meta device, which holds no data.

        Args:
            base: folder with config.json, or a hub id.
            modules: names of modules that adapters touch. They decide as which class the model is built, and so how its
                layers are called (:func:`~sst_merge.data_loader.empty_model`).
            task_type: PEFT's task type of the adapters, asked first; without it, the architecture that config.json
                names.
            generative: only classes that predict text, as :func:`~sst_merge.data_loader.load_base_model` loads them.
            access: what may be read of the base.

        Raises:
            BaseModelError: no configuration there, or transformers cannot build the architecture.
        """
        built = empty_model(base, modules=modules, task_type=task_type, generative=generative, access=access)
        repo = find_base_repo(base, access)
        commit = None if repo is None else repo.commit
        return replace(cls.of(built.model, name=access.label(base)), class_name=built.class_name, commit=commit)

    @classmethod
    def of(cls, model: nn.Module, *, name: str = "model") -> "BaseModelIndex":
        """Index a model that is already there (on any device, without adapters)."""
        modules: dict[str, ModuleShape] = {}
        others: dict[str, str] = {}
        bare: dict[str, ModuleShape] = {}
        # A layer used under two names is adapted under both, so duplicates stay.
        for path, module in model.named_modules(remove_duplicate=False):
            shape = shape_of_layer(module)
            if shape is None:
                others[path] = type(module).__name__
                bare |= bare_parameters(path, module)
            else:
                modules[path] = shape
        named = getattr(getattr(model, "config", None), "dtype", None)
        return cls(
            name,
            MappingProxyType(modules),
            MappingProxyType(others),
            bare=MappingProxyType(bare),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            dtype=None if named is None else str(named).removeprefix("torch."),
        )

    @cached_property
    def adaptable(self) -> Mapping[str, ModuleShape]:
        """Layers and bare parameters."""
        return {**self.modules, **self.bare}

    @property
    def kinds(self) -> dict[str, ModuleKind]:
        """Module name → kind, as :meth:`~.adapter.Adapter.with_kinds` takes it."""
        return {name: shape.kind for name, shape in self.adaptable.items()}
