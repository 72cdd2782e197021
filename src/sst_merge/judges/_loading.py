"""Loading of judges that are neural networks, once and only when a verdict is asked for."""

from collections.abc import Callable
from typing import Any

from ..data_loader import PLAIN
from ..data_loader.hub import look_up
from ..errors import DataError
from .contract import JudgeSettings

__all__ = ["LazyModel"]


class LazyModel:
    """A model and its tokenizer, loaded at first use.

    Args:
        model: id on the hub, unless the settings name another.
        head: name of the class of ``transformers`` that loads it.
        settings: which model, where, and in which type.
        licence: how access is granted, for the error where it cannot be loaded.
    """

    def __init__(self, model: str, head: str, settings: JudgeSettings, *, licence: str) -> None:
        self.id = settings.model or model
        self.device = settings.device
        self._head, self._dtype, self._licence = head, settings.dtype, licence
        self._loaded: tuple[Any, Any] | None = None

    def load(self) -> tuple[Any, Any]:
        """The model and its tokenizer.

        Raises:
            DataError: it cannot be found or reached.
        """
        if self._loaded is None:
            import transformers

            repo, keywords = PLAIN.repo(self.id), PLAIN.of(self.id)
            if (name := PLAIN.hub_name(self.id)) is not None:
                look_up(name, self._refusal)
            build: Callable[..., Any] = getattr(transformers, self._head).from_pretrained
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(repo, **keywords)
                network = build(repo, dtype=self._dtype, **keywords)
            except (OSError, ValueError) as error:
                raise self._refusal(str(error)) from error
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
            # Sequence classifiers read their verdict at the last token that is not padding.
            network.config.pad_token_id = tokenizer.pad_token_id
            self._loaded = network.to(self.device).eval(), tokenizer
        return self._loaded

    def _refusal(self, said: str) -> DataError:
        return DataError(f"judge {self.id} cannot be loaded: {said}; {self._licence}, or give a folder that holds it")
