"""Adapters that are no plain LoRA on disk, turned into one aside; the user's folder is never written to.

Other kinds of PEFT (LoHa, VeRA, IA³, OFT, ...), adapters whose training moved the base (PiSSA, OLoRA, ...) and pickles
leave this room as a PEFT folder of a plain LoRA, which the rest of the package reads like any other.
"""

from .aside import Plain, is_plain, plain_folder
from .pickles import named_as

__all__ = ["Plain", "is_plain", "named_as", "plain_folder"]
