"""From a configuration to adapters, model and batches in memory."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..data_loader import DataSource
from ..errors import ConfigError
from ..merging.config import MergeConfig

if TYPE_CHECKING:
    from ..data_loader import Batch, Row
    from ..lora_utils import Adapter, BaseModelIndex
    from ..merging import MergeInputs
    from ..methods import Needs

__all__ = ["load_adapters", "load_base_index", "load_inputs", "load_model_and_data"]


def load_adapters(config: MergeConfig) -> "list[Adapter]":
    """Open every adapter of the configuration; headers only.

    Raises:
        ConfigError: a module to leave out that no adapter has.
    """
    from ..lora_utils import Adapter
    from ..lora_utils.wrappers import plain_key

    adapters = [
        Adapter.load(
            item.path,
            name=item.label,
            role=item.role,
            weight=item.weight,
            drop_modules_to_save=config.drop_modules_to_save,
            leave_out=config.leave_out,
        )
        for item in config.adapters
    ]
    for name in config.leave_out:
        if not any(f".{name}." in plain_key(key) for adapter in adapters for key in adapter.left_out):
            raise ConfigError(
                f"leave_out: no adapter has a module {name!r}; expected a module's name, or the end of one"
            )
    return adapters


def load_base_index(config: MergeConfig, adapters: "list[Adapter]") -> "BaseModelIndex | None":
    """Layers of the base model (or of the adapters' own, where it is a folder here) to check against, or None."""
    from ..lora_utils import BaseModelIndex

    base = config.base_model
    if base is None:
        named = {adapter.base_model for adapter in adapters if adapter.base_model is not None}
        base = next((name for name in sorted(named) if (Path(name) / "config.json").is_file()), None)
    return None if base is None else BaseModelIndex.load(base)


def load_inputs(config: MergeConfig, needs: "Needs", device: str) -> "MergeInputs":
    """Load what a method needs, and nothing else.

    Raises:
        ConfigError: an aligned base without a base to compare it with.
    """
    from ..lora_utils import BaseWeights
    from ..merging import MergeInputs

    loaded = load_model_and_data(config, device) if needs.data or needs.base else MergeInputs()
    if not needs.aligned_base or config.aligned_base_model is None:
        return loaded
    if config.base_model is None:
        raise ConfigError("base_model: missing; aligned_base_model is compared with it, so give its local folder too")
    return replace(
        loaded,
        base_weights=BaseWeights.load(config.base_model),
        aligned_weights=BaseWeights.load(config.aligned_base_model),
    )


def load_model_and_data(config: MergeConfig, device: str) -> "MergeInputs":
    """Read and tokenise the calibration data, then load the base model: what is cheap to refuse comes first.

    Raises:
        ConfigError: no base model.
    """
    if config.base_model is None:
        raise ConfigError("base_model: missing; a command that reads data needs the base model's folder or hub id")
    from ..data_loader import encode_rows, load_base_model, load_rows, load_tokenizer
    from ..merging import MergeInputs

    def read(source: DataSource | None) -> "tuple[DataSource, list[Row]] | None":
        return None if source is None else (source, load_rows(source, seed=config.seed))

    harm, benign = read(config.data.harm), read(config.data.benign)
    own = {item.label: read(item.data) for item in config.adapters if item.data is not None}
    tokenizer = load_tokenizer(config.base_model)

    def encoded(found: "tuple[DataSource, list[Row]] | None") -> "list[Batch]":
        if found is None:
            return []
        source, rows = found
        size = config.data.batch_size
        return encode_rows(rows, tokenizer, template=source.template, max_length=source.max_length, batch_size=size)

    batches = {"harm": encoded(harm), "benign": encoded(benign)}
    own_batches = {name: encoded(found) for name, found in own.items()}
    model = load_base_model(config.base_model, dtype=config.model_dtype, device=device, device_map=config.device_map)
    where = model.get_input_embeddings().weight.device

    def moved(found: "list[Batch]") -> "list[Batch]":
        return [batch.to(where) for batch in found]

    return MergeInputs(
        model=model,
        harm=moved(batches["harm"]),
        benign=moved(batches["benign"]),
        adapter_benign={name: moved(found) for name, found in own_batches.items()},
    )
