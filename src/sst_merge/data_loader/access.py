"""What of a base model is read, and how: plain files of its newest state, unless the user says more."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import Field

from ..errors import ConfigError
from ..hub_names import HubName, is_here
from ..yaml_config import Section

__all__ = ["PLAIN", "BaseAccess", "BaseAccessFields", "MeasuredBaseFields", "Quantization"]

Quantization = Literal["4bit", "8bit"] | Mapping[str, Any]
"""Bits by bitsandbytes, or fields of transformers' own ``quantization_config``."""


@dataclass(frozen=True, kw_only=True)
class BaseAccess:
    """How a base model and its tokenizer are fetched.

    Attributes:
        revision: commit, tag or branch of a hub repository; None for its newest state, or the one behind the ``@`` of
            its name. A folder has none.
        trust_remote_code: run Python files that the repository or folder brings. Never asked for, never on by itself.
        allow_pickle: read weights that were saved as pickles (``.bin``), which can run code; safetensors alone
            otherwise.
        gguf_file: name of the GGUF file that holds the model, in its folder or repository; a base whose own name ends
            in ``.gguf`` needs none.
        quantization: how transformers quantises the weights while it loads them; None for the weights as stored.
    """

    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    gguf_file: str | None = None
    quantization: Quantization | None = None

    def gguf(self, reference: str | Path) -> str | None:
        """The GGUF file of a base, without its folder or repository; None where it is none.

        Raises:
            ConfigError: the base is a GGUF file itself, and another one is named.
        """
        own = PurePath(reference).name if _is_gguf(reference) else None
        if own is not None and self.gguf_file not in {None, own}:
            raise ConfigError(
                f"gguf_file: {self.gguf_file!r}, and the base {str(reference)!r} is a GGUF file itself; give one of "
                f"them"
            )
        return own or self.gguf_file

    def local(self, reference: str | Path) -> Path | None:
        """The folder on this machine that a base lies in; None for one of the hub, and where there is nothing."""
        place = Path(reference)
        if _is_gguf(reference):
            return place.parent if is_here(place) else None
        return place if place.is_dir() else None

    def of(self, reference: str | Path) -> dict[str, Any]:
        """Keywords of transformers' ``from_pretrained`` for configurations and tokenizers, beside :meth:`repo`.

        Raises:
            ConfigError: as :meth:`hub_name`.
        """
        keywords: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        name = self.hub_name(reference)
        if name is not None and name.revision is not None:
            keywords["revision"] = name.revision
        if name is not None and name.subfolder:
            keywords["subfolder"] = name.subfolder
        if (file := self.gguf(reference)) is not None:
            keywords["gguf_file"] = file
        return keywords

    def repo(self, reference: str | Path) -> str:
        """What ``from_pretrained`` is called with: the folder, or the repository without revision and subfolder."""
        name = self.hub_name(reference)
        if name is not None:
            return name.repo
        return str(self.local(reference) if _is_gguf(reference) and is_here(reference) else reference)

    def label(self, reference: str | Path) -> str:
        """How reports and outputs call it: a GGUF file with its folder or repository, anything else as :meth:`repo`."""
        file = self.gguf(reference)
        if file is None:
            return self.repo(reference)
        if (name := self.hub_name(reference)) is not None:
            return "/".join(part for part in (name.repo, name.subfolder, file) if part)
        return str(reference) if _is_gguf(reference) else f"{reference}/{file}"

    def hub_name(self, reference: str | Path) -> HubName | None:
        """What is asked of the hub; None for a folder, and for what is no name of the hub.

        Raises:
            ConfigError: its name has a revision, and another one is given.
        """
        name = None if is_here(reference) else HubName.parse(str(reference), single=not _is_gguf(reference))
        if name is not None and _is_gguf(reference):
            folder = name.subfolder.rpartition("/")[0]
            # Without a file behind the repository it is a path that does not exist.
            name = replace(name, subfolder=folder) if name.subfolder else None
        if name is None or self.revision is None:
            return name
        if name.revision not in {None, self.revision}:
            raise ConfigError(
                f"base {str(reference)!r} is given with revision {name.revision!r} and base_revision "
                f"{self.revision!r}; give one of them"
            )
        return replace(name, revision=self.revision)

    def of_weights(self, reference: str | Path) -> dict[str, Any]:
        """The same for models."""
        plain = self.allow_pickle or self.gguf(reference) is not None
        return self.of(reference) | ({} if plain else {"use_safetensors": True})


def _is_gguf(reference: str | Path) -> bool:
    return str(reference).lower().endswith(".gguf") and not Path(reference).is_dir()


PLAIN = BaseAccess()
"""Safetensors of the newest revision, and no code."""


class BaseAccessFields(Section):
    """The same as fields of a configuration that names a base, but how it is stored."""

    base_revision: str | None = Field(default=None, description="commit, tag or branch of the base on the hub")
    trust_remote_code: bool = Field(default=False, description="run Python files that the base brings; off, unasked")
    allow_pickle: bool = Field(default=False, description="read weights that are pickles (.bin), as tensors alone")

    @property
    def access(self) -> BaseAccess:
        """What may be read."""
        return BaseAccess(
            revision=self.base_revision, trust_remote_code=self.trust_remote_code, allow_pickle=self.allow_pickle
        )


class MeasuredBaseFields(BaseAccessFields):
    """Fields of a configuration whose base is run to measure something, in whatever form it is stored."""

    gguf_file: str | None = Field(
        default=None, description="GGUF file in the base's folder or repository; a base may also be such a file itself"
    )
    quantization: Quantization | None = Field(
        default=None,
        description="how the base is quantised while it is loaded: 4bit or 8bit by bitsandbytes, or fields of "
        "transformers' quantization_config",
        json_schema_extra={"metavar": "4bit|8bit|YAML"},
    )

    @property
    def access(self) -> BaseAccess:
        """What is read of the base, and how."""
        return replace(super().access, gguf_file=self.gguf_file, quantization=self.quantization)
