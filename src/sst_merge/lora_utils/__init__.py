"""A PEFT folder is a dict of exact low-rank updates; every format quirk ends in this room."""

from .._moved import moved_from
from .adapter import Adapter, Role
from .base_index import BaseModelIndex
from .base_names import exists_here, hub_id, written_base
from .base_weights import BaseWeights
from .checks import check_against_base, check_compatible, check_distinct
from .conversion import Conversion, Converted, ConvertedModule
from .convolutions import Conv1dLayerKind, Conv2dLayerKind, Conv3dLayerKind
from .copies import true_copies
from .entries import natural_key
from .expected_file import ExpectedFile, Ranks
from .experts import ExpertKind, RouterKind, expert_module, parameter_of
from .factors import LoraFactors
from .folders import adapter_fingerprints
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
from .opening import TASK_TYPES, check_opens, excluding_name, fitting_task_type
from .spellings import spelled_alike
from .stored_form import StoredForm, read_stored_form
from .values import all_finite, all_zero
from .whole_weights import WholeWeight, heads_of, saved_part
from .writing import write_adapter, write_adapter_files

__all__ = [
    "Adapter",
    "BaseModelIndex",
    "BaseWeights",
    "LINEAR",
    "Conv1DKind",
    "Conv1dLayerKind",
    "Conv2dLayerKind",
    "Conv3dLayerKind",
    "Conversion",
    "Converted",
    "ConvertedModule",
    "EmbeddingKind",
    "ExpectedFile",
    "ExpertKind",
    "FileForm",
    "LinearKind",
    "LoraFactors",
    "ModuleKind",
    "ModuleShape",
    "Ranks",
    "Role",
    "RouterKind",
    "StoredForm",
    "TASK_TYPES",
    "WholeWeight",
    "adapter_fingerprints",
    "all_finite",
    "all_zero",
    "check_against_base",
    "check_compatible",
    "check_distinct",
    "check_opens",
    "excluding_name",
    "exists_here",
    "expert_module",
    "fitting_task_type",
    "heads_of",
    "hub_id",
    "layer_kind",
    "layer_kinds",
    "natural_key",
    "parameter_of",
    "read_stored_form",
    "saved_part",
    "spelled_alike",
    "true_copies",
    "write_adapter",
    "write_adapter_files",
    "written_base",
]

__getattr__ = moved_from(__name__, "files")
