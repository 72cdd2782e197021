"""What of a base model may be read: plain files of its newest state, unless the user says more."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from ..errors import ConfigError
from ..hub_names import HubName, is_here
from ..yaml_config import Section

__all__ = ["PLAIN", "BaseAccess", "BaseAccessFields"]


@dataclass(frozen=True, kw_only=True)
class BaseAccess:
    """How a base model and its tokenizer are fetched.

    Attributes:
        revision: commit, tag or branch of a hub repository; None for its newest state, or the one behind the ``@`` of
            its name. A folder has none.
        trust_remote_code: run Python files that the repository or folder brings. Never asked for, never on by itself.
        allow_pickle: read weights that were saved as pickles (``.bin``), which can run code; safetensors alone
            otherwise.
    """

    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

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
        return keywords

    def repo(self, reference: str | Path) -> str:
        """What ``from_pretrained`` is called with: the folder, or the repository without revision and subfolder."""
        name = self.hub_name(reference)
        return str(reference) if name is None else name.repo

    def hub_name(self, reference: str | Path) -> HubName | None:
        """What is asked of the hub; None for a folder, and for what is no name of the hub.

        Raises:
            ConfigError: its name has a revision, and another one is given.
        """
        name = None if is_here(reference) else HubName.parse(str(reference), single=True)
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
        return self.of(reference) | ({} if self.allow_pickle else {"use_safetensors": True})


PLAIN = BaseAccess()
"""Safetensors of the newest revision, and no code."""


class BaseAccessFields(Section):
    """The same as fields of a configuration that names a base."""

    base_revision: str | None = Field(default=None, description="commit, tag or branch of the base on the hub")
    trust_remote_code: bool = Field(default=False, description="run Python files that the base brings; off, unasked")
    allow_pickle: bool = Field(default=False, description="read weights that are pickles (.bin), as tensors alone")

    @property
    def access(self) -> BaseAccess:
        """What may be read."""
        return BaseAccess(
            revision=self.base_revision, trust_remote_code=self.trust_remote_code, allow_pickle=self.allow_pickle
        )
