"""Prompts and answers: from files or the hub to rows, from rows to batches with labels on the answer only."""

from .access import PLAIN, BaseAccess, BaseAccessFields, MeasuredBaseFields
from .answer_logits import AnswerLogits, answer_logits, can_share_prefix
from .base_files import base_folder
from .base_model import base_fingerprint, check_weights, load_base_model, load_tokenizer, torch_type
from .batch import Batch
from .builtin import builtin_calibration, is_builtin
from .chat_template import check_chat_template
from .devices import algebra_device, computing_type, multiplies, resolve_device
from .encode import EncodedRow, encode_each, encode_rows, pad_rows
from .load import LoadedRows, load_rows, read_rows
from .model_class import AUTO_CLASSES, empty_model, read_base_config
from .own_tokenizer import TokenizerChoice, choose_tokenizer
from .quantised import QuantisedBase, quantised_base, require_plain
from .rows import Row, normalise_prompt, split_rows
from .source import DataSource

__all__ = [
    "AUTO_CLASSES",
    "AnswerLogits",
    "BaseAccess",
    "BaseAccessFields",
    "Batch",
    "DataSource",
    "EncodedRow",
    "LoadedRows",
    "MeasuredBaseFields",
    "PLAIN",
    "QuantisedBase",
    "Row",
    "TokenizerChoice",
    "algebra_device",
    "answer_logits",
    "base_fingerprint",
    "base_folder",
    "builtin_calibration",
    "can_share_prefix",
    "check_chat_template",
    "check_weights",
    "choose_tokenizer",
    "computing_type",
    "empty_model",
    "encode_each",
    "encode_rows",
    "is_builtin",
    "load_base_model",
    "load_rows",
    "load_tokenizer",
    "multiplies",
    "normalise_prompt",
    "pad_rows",
    "quantised_base",
    "read_base_config",
    "read_rows",
    "require_plain",
    "resolve_device",
    "split_rows",
    "torch_type",
]
