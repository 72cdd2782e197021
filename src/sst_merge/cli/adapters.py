"""The adapters of a configuration, opened, and the layers of the base that they are checked against."""

from typing import TYPE_CHECKING

from ..errors import BaseModelError, ConfigError
from ..hub_names import is_here
from ..merging.config import MergeConfig
from .together import Faults

if TYPE_CHECKING:
    from ..lora_utils import Adapter, BaseModelIndex

__all__ = ["load_adapters", "load_base_index"]


def load_adapters(config: MergeConfig, *, headers_only: bool = False) -> "list[Adapter]":
    """Open every adapter of the configuration; reads headers.

    Args:
        config: names the adapters.
        headers_only: leave the weights of adapters on the hub there.

    Raises:
        AdapterError: one cannot be read.
        ConfigError: a module to leave out that no adapter has.
    """
    from ..lora_utils import Adapter, Conversion
    from ..lora_utils.wrappers import plain_key

    adapters = []
    faults = Faults()
    for item in config.adapters:
        with faults.collected():
            adapters.append(
                Adapter.load(
                    item.reference,
                    name=item.label,
                    role=item.role,
                    weight=item.weight,
                    drop_modules_to_save=config.drop_modules_to_save,
                    leave_out=config.leave_out,
                    headers_only=headers_only,
                    looked_at=item.path,
                    conversion=Conversion(
                        config.base_model,
                        config.convert_rank,
                        config.convert_lost,
                        config.access,
                        None if item.initial is None else str(item.initial),
                        config.allow_pickle,
                    ),
                )
            )
    faults.tell()
    for name in config.leave_out:
        if not any(f".{name}." in plain_key(key) for adapter in adapters for key in adapter.left_out):
            raise ConfigError(
                f"leave_out: no adapter has a module {name!r}; expected a module's name, or the end of one"
            )
    return adapters


def load_base_index(
    config: MergeConfig, adapters: "list[Adapter]", *, needed: bool
) -> "tuple[BaseModelIndex | None, list[str]]":
    """Layers of the base model to check the adapters against, as far as there is one.

    Args:
        config: may name a base; the adapters' own is taken where it does not and that is a folder here.
        adapters: what is merged.
        needed: whether the method runs the base or reads its weights.

    Returns:
        The layers, or None with a sentence about why the adapters were not checked. A base that was only found beside
        the adapters is a help and never a reason to refuse.

    Raises:
        BaseModelError: the base that is needed cannot be built, or the one that was given is no model.
    """
    from ..lora_utils import BaseModelIndex, check_against_base, exists_here, hub_id, spelled_alike

    modules = {module for adapter in adapters for module in adapter.modules}
    types = {adapter.task_type for adapter in adapters if adapter.task_type is not None}
    task_type = types.pop() if len(types) == 1 else None
    given = config.base_model
    if given is not None:
        try:
            index = BaseModelIndex.load(
                given, modules=modules, task_type=task_type, generative=needed, access=config.access
            )
        except BaseModelError as error:
            there = exists_here(given) or (config.access.gguf(given) is not None and is_here(given))
            if needed or not (there or hub_id(config.access.repo(given))):
                raise
            return None, [_unchecked(given, error)]
        return index, []
    named = {adapter.base_model for adapter in adapters if adapter.base_model is not None}
    found = next((name for name in sorted(named) if exists_here(name)), None)
    if found is None:
        return None, []
    try:
        index = BaseModelIndex.load(found, modules=modules, task_type=task_type)
        for adapter in spelled_alike(adapters, index.adaptable)[0]:
            check_against_base(adapter, index)
    except BaseModelError as error:
        return None, [_unchecked(found, error)]
    return index, []


def _unchecked(base: str, error: BaseModelError) -> str:
    return f"the adapters were not checked against the layers of {base!r}, which this method does not need: {error}"
