"""From a configuration to adapters, model and batches in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..merging.config import DataConfig, MergeConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data_loader import Row
    from ..data_loader.batch import Batch
    from ..lora_utils import Adapter, BaseModelIndex, BaseWeights

__all__ = [
    "ModelAndData",
    "load_adapters",
    "load_base_index",
    "load_model_and_data",
    "open_weights",
]


@dataclass(frozen=True)
class ModelAndData:
    """What a method that reads data gets.

    Attributes:
        model: base model in evaluation mode.
        harm: harmful prompts with refusals.
        benign: benign prompts with good answers.
        adapter_benign: adapter name → its own benign data.
    """

    model: "PreTrainedModel"
    harm: "list[Batch]"
    benign: "list[Batch]"
    adapter_benign: "dict[str, list[Batch]]"


def load_adapters(config: MergeConfig) -> "list[Adapter]":
    """Open every adapter of the configuration; headers only.

    Args:
        config: the configuration.

    Returns:
        Adapters in the configuration's order.
    """
    from ..lora_utils import Adapter

    return [
        Adapter.load(
            item.path,
            name=item.label,
            role=item.role,
            weight=item.weight,
            drop_modules_to_save=config.drop_modules_to_save,
        )
        for item in config.adapters
    ]


def load_base_index(config: MergeConfig, adapters: "list[Adapter]") -> "BaseModelIndex | None":
    """Layers of the base model, to check the adapters against.

    Args:
        config: names the base, or does not.
        adapters: their own base is used where it is a folder on this machine.

    Returns:
        The layers, or None where no base is at hand.
    """
    from ..lora_utils import BaseModelIndex

    base = config.base_model
    if base is None:
        named = {adapter.base_model for adapter in adapters if adapter.base_model is not None}
        base = next((name for name in sorted(named) if (Path(name) / "config.json").is_file()), None)
    return None if base is None else BaseModelIndex.load(base)


def load_model_and_data(config: MergeConfig, device: str) -> ModelAndData:
    """Read and tokenise the calibration data, then load the base model: what is cheap to refuse comes first.

    Args:
        config: the configuration.
        device: where the model goes, unless the configuration has a ``device_map``.

    Returns:
        Model and batches.

    Raises:
        ConfigError: no base model.
    """
    if config.base_model is None:
        raise ConfigError("base_model: missing; a command that reads data needs the base model's folder or hub id")
    from ..data_loader.base_model import load_base_model, load_tokenizer

    sources = {"harm": config.data.harm, "benign": config.data.benign}
    own = {item.label: item.data for item in config.adapters if item.data is not None}
    rows = {name: _rows(source, config.seed) for name, source in sources.items()}
    own_rows = {name: _rows(source, config.seed) for name, source in own.items()}
    tokenizer = load_tokenizer(config.base_model)
    size = config.data.batch_size
    batches = {name: _batches(rows[name], source, tokenizer, size) for name, source in sources.items()}
    own_batches = {name: _batches(own_rows[name], source, tokenizer, size) for name, source in own.items()}
    model = load_base_model(config.base_model, dtype=config.model_dtype, device=device, device_map=config.device_map)
    where = model.get_input_embeddings().weight.device

    def moved(found: "list[Batch]") -> "list[Batch]":
        return [batch.to(where) for batch in found]

    return ModelAndData(
        model=model,
        harm=moved(batches["harm"]),
        benign=moved(batches["benign"]),
        adapter_benign={name: moved(found) for name, found in own_batches.items()},
    )


def open_weights(config: MergeConfig) -> "tuple[BaseWeights | None, BaseWeights | None]":
    """Open the weights of the unaligned and the aligned base, for methods that compare them; nothing is read yet.

    Args:
        config: the configuration.

    Returns:
        Both, or None twice where no aligned base is named.

    Raises:
        ConfigError: an aligned base without a base to compare it with.
    """
    from ..lora_utils import BaseWeights

    if config.aligned_base_model is None:
        return None, None
    if config.base_model is None:
        raise ConfigError("base_model: missing; aligned_base_model is compared with it, so give its local folder too")
    return BaseWeights.load(config.base_model), BaseWeights.load(config.aligned_base_model)


def _rows(source: DataConfig | None, seed: int) -> "list[Row]":
    from ..data_loader import load_rows

    return [] if source is None else load_rows(source.to_source(), seed=seed)


def _batches(
    rows: "list[Row]", source: DataConfig | None, tokenizer: "PreTrainedTokenizerBase", batch_size: int
) -> "list[Batch]":
    from ..data_loader import encode_rows

    if source is None:
        return []
    return encode_rows(rows, tokenizer, template=source.template, max_length=source.max_length, batch_size=batch_size)
