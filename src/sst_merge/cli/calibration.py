"""The calibration data of a configuration, read and encoded by the tokenizer that it chooses."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..data_loader import DataSource
from ..errors import BaseModelError
from ..merging.config import MergeConfig
from .console import warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data_loader import Batch, Row, TokenizerChoice
    from ..lora_utils import Adapter

__all__ = ["ReadData", "own_tokenizer", "read_data"]


def own_tokenizer(config: MergeConfig, adapters: "list[Adapter]") -> "TokenizerChoice":
    """Whose tokenizer encodes the data and goes into the output; no tokenizer is loaded."""
    from ..data_loader import choose_tokenizer

    folders = {adapter.name: adapter.path for adapter in adapters if adapter.path is not None}
    base = config.base_model or next((a.base_model for a in adapters if a.base_model is not None), None)
    return choose_tokenizer(folders, base=base, given=config.tokenizer)


@dataclass(frozen=True)
class ReadData:
    """Calibration data, encoded, on the CPU.

    Attributes:
        encoder: the tokenizer.
        harm: batches of harmful prompts.
        benign: batches of benign prompts.
        own: adapter → batches of its own benign prompts.
        notes: sentences about how the rows were read.
    """

    encoder: "PreTrainedTokenizerBase"
    harm: "list[Batch]"
    benign: "list[Batch]"
    own: "dict[str, list[Batch]]"
    notes: tuple[str, ...]


def read_data(config: MergeConfig, tokenizer: "TokenizerChoice") -> ReadData:
    """Read and tokenise the calibration data.

    Args:
        config: names the data, and a base.
        tokenizer: what encodes them.

    Raises:
        DataError: rows cannot be read or encoded.
        BaseModelError: the tokenizer cannot be loaded.
    """
    from ..data_loader import encode_rows, read_rows

    notes: list[str] = []

    def read(source: DataSource | None) -> "tuple[DataSource, list[Row]] | None":
        if source is None:
            return None
        found = read_rows(source, seed=config.seed)
        notes.extend(found.notes)
        return source, found.rows

    harm, benign = read(config.data.harm), read(config.data.benign)
    own = {item.label: read(item.data) for item in config.adapters if item.data is not None}
    encoder = _loaded(tokenizer, config)

    def encoded(found: "tuple[DataSource, list[Row]] | None") -> "list[Batch]":
        if found is None:
            return []
        source, rows = found
        return encode_rows(
            rows,
            encoder,
            template=source.template,
            template_name=source.template_name,
            max_length=source.max_length,
            batch_size=config.data.batch_size,
            batch_tokens=config.data.batch_tokens,
        )

    own_batches = {name: encoded(found) for name, found in own.items()}
    return ReadData(encoder, encoded(harm), encoded(benign), own_batches, tuple(notes))


def _loaded(choice: "TokenizerChoice", config: MergeConfig) -> "PreTrainedTokenizerBase":
    """The tokenizer that was chosen. One that was only found beside an adapter gives way where it cannot be loaded.

    Raises:
        BaseModelError: the one that was given, or the base's, cannot be loaded.
    """
    from ..data_loader import load_tokenizer

    assert config.base_model is not None, "checked by the caller"
    if choice.reference is not None:
        try:
            # Revision and form are the base's; another repository has its own.
            return load_tokenizer(
                choice.reference, access=replace(config.access, revision=None, gguf_file=None, quantization=None)
            )
        except BaseModelError as error:
            if config.tokenizer is not None:
                raise
            warn(f"the base's own tokenizer is used for data: {error}")
    encoder = load_tokenizer(config.base_model, access=config.access)
    if choice.templates:
        encoder.chat_template = dict(choice.templates)
    return encoder
