"""What the libraries underneath would say on a terminal, and nobody who types a command can do anything about."""

import os
import sys
import warnings
from collections.abc import Sequence

__all__ = ["hush_libraries"]

_TALKATIVE = r"(accelerate|datasets|huggingface_hub|peft|tokenizers|torch|transformers)(\.|$)"


def hush_libraries(words: Sequence[str]) -> None:
    """Keep warnings of libraries off stderr, and their bars where stderr is no terminal; errors still show.

    Called before any of them is imported. What the user has set (``TRANSFORMERS_VERBOSITY``, ``PYTHONWARNINGS``) stays,
    and with ``--debug`` everything is said.

    Args:
        words: the command line.
    """
    if "--debug" in words:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty() or {"--quiet", "-q"} & set(words):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bar of a model's weights, too
    if not sys.warnoptions:
        for category in (FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=_TALKATIVE)
