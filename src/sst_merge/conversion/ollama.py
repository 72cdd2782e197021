"""A Modelfile: what ``ollama create`` needs to serve a base with an adapter."""

import re
from pathlib import Path

from ..errors import ConversionError

__all__ = ["ADAPTER_NAME", "modelfile"]

ADAPTER_NAME = "adapter.gguf"

# A model of Ollama's library, such as llama3.2:1b-instruct-fp16, user/name, or host:port/user/name:tag.
_MODEL = re.compile(r"([A-Za-z0-9.-]+(:\d+)?/)?([A-Za-z0-9._-]+/)?[A-Za-z0-9._-]+(:[A-Za-z0-9._-]+)?")


def modelfile(base: str) -> str:
    """Text of a Modelfile that lies beside ``adapter.gguf``.

    Args:
        base: GGUF file or safetensors folder on this machine, or name of a model that Ollama has.

    Returns:
        FROM, ADAPTER, and comments; the chat template stays that of the base.

    Raises:
        ConversionError: neither a file, a folder nor a name that Ollama could know.
    """
    return (
        f"# Run: ollama create NAME -f Modelfile\n"
        f"FROM {_source(base)}\n"
        f"ADAPTER ./{ADAPTER_NAME}\n"
        f"# The chat template is the base's own. Ollama's templates are Go text/template, not Jinja; another one:\n"
        f'# TEMPLATE """{{{{ .System }}}} {{{{ .Prompt }}}} {{{{ .Response }}}}"""\n'
        f"# PARAMETER temperature 0\n"
    )


def _source(base: str) -> str:
    place = Path(base).expanduser()
    if place.exists():
        path = str(place.absolute())
        # A Modelfile has one instruction a line, and no way to quote a path.
        if "\n" in path or "\r" in path or path != path.strip():
            raise ConversionError(f"--from {base!r}: a Modelfile cannot name this path; move the base elsewhere")
        return path
    if base.endswith(".gguf") or base.startswith((".", "/", "~")) or not _MODEL.fullmatch(base):
        raise ConversionError(
            f"--from {base!r}: no such file or folder, and no name of a model of Ollama's; expected a GGUF file, a "
            f"folder of safetensors, or a name such as llama3.2:1b"
        )
    return base
