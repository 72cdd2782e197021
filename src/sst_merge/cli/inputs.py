"""What a method needs of a configuration, in memory: the model and its batches, or the base's weights."""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError
from ..merging.config import MergeConfig
from .calibration import read_data
from .console import warn

if TYPE_CHECKING:
    from ..data_loader import Batch, TokenizerChoice
    from ..merging import MergeInputs
    from ..methods import Needs

__all__ = ["load_inputs", "load_model_and_data", "needs_of"]


def needs_of(config: MergeConfig) -> "Needs":
    """What the configuration's method must be given, with its options."""
    from ..methods import get_method, parse_options

    method = get_method(config.method)
    return method.needs_for(parse_options(method, config.merge.options))


def load_inputs(
    config: MergeConfig, needs: "Needs", device: str, *, modules: Collection[str], tokenizer: "TokenizerChoice"
) -> "MergeInputs":
    """Load what a method needs, and nothing else.

    Args:
        config: names the base and the data.
        needs: of the method.
        device: where the model goes.
        modules: that the adapters touch; they decide which class of transformers the base is.
        tokenizer: what encodes the data.

    Raises:
        ConfigError: an aligned base without a base to compare it with.
    """
    from ..data_loader import base_folder
    from ..lora_utils import BaseWeights
    from ..merging import MergeInputs

    loaded = (
        load_model_and_data(config, device, modules=modules, tokenizer=tokenizer)
        if needs.data or needs.base
        else MergeInputs()
    )
    if not needs.aligned_base or config.aligned_base_model is None:
        return loaded
    if config.base_model is None:
        raise ConfigError("base_model: missing; aligned_base_model is compared with it, so give it too")
    return replace(
        loaded,
        base_weights=BaseWeights.load(base_folder(config.base_model, config.access)),
        aligned_weights=BaseWeights.load(base_folder(config.aligned_base_model)),
    )


def load_model_and_data(
    config: MergeConfig, device: str, *, modules: Collection[str], tokenizer: "TokenizerChoice"
) -> "MergeInputs":
    """Read and tokenise the calibration data, then load the base model: what is cheap to refuse comes first.

    Args:
        config: names the base and the data.
        device: where the model goes.
        modules: that the adapters touch.
        tokenizer: what encodes the data.

    Raises:
        ConfigError: no base model.
        DataError: the tokenizer knows tokens that the model has no embedding of.
    """
    if config.base_model is None:
        raise ConfigError("base_model: missing; a command that reads data needs the base model's folder or hub id")
    from ..data_loader import load_base_model
    from ..judges import GreedyRefusals
    from ..merging import MergeInputs

    found_data = read_data(config, tokenizer)
    for note in found_data.notes:
        warn(note)
    encoder, own_batches = found_data.encoder, found_data.own
    batches = {"harm": found_data.harm, "benign": found_data.benign}
    model = load_base_model(
        config.base_model,
        modules=modules,
        dtype=config.model_dtype,
        device=device,
        device_map=config.device_map,
        access=config.access,
    )
    weight = model.get_input_embeddings().weight
    where = weight.device
    largest = max(
        (int(batch.input_ids.max()) for found in (*batches.values(), *own_batches.values()) for batch in found),
        default=0,
    )
    if largest >= weight.shape[0]:
        raise DataError(
            f"tokenizer {encoder.name_or_path!r} gives the token {largest}, the base {config.base_model!r} has "
            f"{weight.shape[0]} embeddings: it was made for a base with more tokens. Name the base's own: tokenizer "
            f"(--tokenizer {config.access.label(config.base_model)})"
        )

    def moved(found: "list[Batch]") -> "list[Batch]":
        return [batch.to(where) for batch in found]

    return MergeInputs(
        model=model,
        harm=moved(batches["harm"]),
        benign=moved(batches["benign"]),
        adapter_benign={name: moved(found) for name, found in own_batches.items()},
        notes=found_data.notes,
        refuses=GreedyRefusals(encoder),
    )
