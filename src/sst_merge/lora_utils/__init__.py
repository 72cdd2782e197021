"""A PEFT folder is a dict of exact low-rank updates; every format quirk ends in this room."""

from ..files import atomic_folder
from .adapter import Adapter, Role, adapter_fingerprints
from .base_index import BaseModelIndex, ModuleShape
from .base_weights import BaseWeights
from .checks import check_against_base, check_compatible, check_distinct
from .factors import LoraFactors, ModuleKind
from .header import natural_key
from .stored_form import StoredForm, read_stored_form
from .writing import write_adapter

__all__ = [
    "Adapter",
    "BaseModelIndex",
    "BaseWeights",
    "LoraFactors",
    "ModuleKind",
    "ModuleShape",
    "Role",
    "StoredForm",
    "adapter_fingerprints",
    "atomic_folder",
    "check_against_base",
    "check_compatible",
    "check_distinct",
    "natural_key",
    "read_stored_form",
    "write_adapter",
]
