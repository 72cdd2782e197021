"""SST-Merge: the formula of the design's section 4, in files a reader can check against it."""

from .coefficients import optimize_merge_coefficients
from .flow import SSTMerge
from .likelihood import Candidate
from .method import sst
from .options import FisherOptions, SSTOptions, VilaOptions
from .projection import project_to_safety_subspace

__all__ = [
    "Candidate",
    "FisherOptions",
    "SSTMerge",
    "SSTOptions",
    "VilaOptions",
    "optimize_merge_coefficients",
    "project_to_safety_subspace",
    "sst",
]
