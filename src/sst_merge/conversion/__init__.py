"""An adapter in other forms than a PEFT folder: at a server's rank, as GGUF, as a whole model, on the hub; and back.

The contract of this room: ΔW stays what it is, or what is lost is known and said. Files are whole or absent, and what a
form has no place for is refused.
"""

from .extract import ExtractedModule, Extraction, extract_adapter
from .for_base import NamedForBase, named_for_base
from .full_model import WrittenModel, check_full_model, write_full_model
from .gguf_lora import WrittenGguf, check_gguf, write_gguf
from .gguf_names import GgufBase
from .ollama import ADAPTER_NAME, modelfile
from .peft_folder import rank_cuts, write_peft
from .push import Upload, check_repository, planned_upload, upload
from .record import REPORT_NAME, export_card, export_report, record_text
from .serve_rank import ModuleCut, at_rank, lost_share
from .servers import SERVED_RANKS, VLLM_VERSION, least_served_rank, vllm_objections, vllm_room

__all__ = [
    "ADAPTER_NAME",
    "ExtractedModule",
    "Extraction",
    "GgufBase",
    "ModuleCut",
    "NamedForBase",
    "REPORT_NAME",
    "SERVED_RANKS",
    "Upload",
    "VLLM_VERSION",
    "WrittenGguf",
    "WrittenModel",
    "at_rank",
    "check_full_model",
    "check_gguf",
    "check_repository",
    "export_card",
    "export_report",
    "extract_adapter",
    "least_served_rank",
    "lost_share",
    "modelfile",
    "named_for_base",
    "planned_upload",
    "rank_cuts",
    "record_text",
    "upload",
    "vllm_objections",
    "vllm_room",
    "write_full_model",
    "write_gguf",
    "write_peft",
]
