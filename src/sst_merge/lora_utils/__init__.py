"""A PEFT folder is a dict of exact low-rank updates; every format quirk ends in this room."""

from .._moved import moved_from
from .adapter import Adapter, Role, adapter_fingerprints
from .base_index import BaseModelIndex
from .base_weights import BaseWeights
from .checks import check_against_base, check_compatible, check_distinct
from .copies import check_copies, weights_of_base
from .factors import LoraFactors
from .header import natural_key
from .layouts import (
    LINEAR,
    Conv1DKind,
    EmbeddingKind,
    FileForm,
    LinearKind,
    ModuleKind,
    ModuleShape,
    layer_kind,
    layer_kinds,
)
from .spellings import spelled_alike
from .stored_form import StoredForm, read_stored_form
from .writing import write_adapter, write_adapter_files

__all__ = [
    "Adapter",
    "BaseModelIndex",
    "BaseWeights",
    "LINEAR",
    "Conv1DKind",
    "EmbeddingKind",
    "FileForm",
    "LinearKind",
    "LoraFactors",
    "ModuleKind",
    "ModuleShape",
    "Role",
    "StoredForm",
    "adapter_fingerprints",
    "check_against_base",
    "check_compatible",
    "check_copies",
    "check_distinct",
    "layer_kind",
    "layer_kinds",
    "natural_key",
    "read_stored_form",
    "spelled_alike",
    "weights_of_base",
    "write_adapter",
    "write_adapter_files",
]

__getattr__ = moved_from(__name__, "files")
