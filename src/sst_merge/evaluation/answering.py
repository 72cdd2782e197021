"""Every model is asked every suite: models that are loaded once, answers that are kept and not asked for again."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data_loader import base_fingerprint, check_chat_template
from ..errors import ConfigError
from ..files import file_name
from ..processes import count, launched
from ..progress import Progress
from .adapters import BASE_NAME, EvaluatedAdapter, adapted_modules, check_adapters
from .answers import digest
from .checks import check_room
from .loading import LoadedSuite
from .provenance import library_versions, template_fingerprint
from .records import Record
from .settings import ModelSettings
from .shared_answers import open_answers
from .silence_libraries import quiet_libraries

__all__ = ["Answerers", "ask_all", "code_allowed"]


@dataclass(frozen=True)
class Answerers:
    """A base in memory with adapters to put on it, and suites to ask, for models that answer one after another.

    Attributes:
        base: folder or hub id.
        adapters: all that are evaluated; they decide which class the base is.
        suites: what is asked.
        settings: loading and batching.
        models: the base, loaded.
    """

    base: str
    adapters: Sequence[EvaluatedAdapter]
    suites: Sequence[LoadedSuite]
    settings: ModelSettings
    models: Any

    @classmethod
    def opened(
        cls, base: str, adapters: Mapping[str, Path], suites: Sequence[LoadedSuite], settings: ModelSettings
    ) -> "Answerers":
        """Check the adapters and load the base, as an evaluation of them all does."""
        from ..lora_utils import BaseModelIndex

        with quiet_libraries():
            modules = adapted_modules(adapters)
            index = BaseModelIndex.load(base, modules=modules, generative=True, access=settings.access)
            checked = check_adapters(adapters, index, allow_noop=True)
            return cls(base, checked, suites, settings, _load(base, checked, settings))

    def answer_as(self, name: str, cache: Path, *, allow_code: bool = False) -> int:
        """Let one model answer all suites; what it has answered before is not asked again.

        Args:
            name: of an adapter, or of the base.
            cache: folder of answers, into which no other process may have the same model answer.
            allow_code: whether suites may run code that the model wrote.

        Returns:
            Answers that are new.
        """
        asked = [None] if name == BASE_NAME else [adapter for adapter in self.adapters if adapter.name == name]
        with quiet_libraries(), code_allowed(allow_code):
            _, _, generated = ask_all(
                self.base,
                self.adapters,
                self.suites,
                self.settings,
                cache,
                allow_code=allow_code,
                progress=None,
                models=self.models,
                asked=asked,
            )
        return generated


def ask_all(
    base: str,
    adapters: Sequence[EvaluatedAdapter],
    suites: Sequence[LoadedSuite],
    settings: ModelSettings,
    cache: Path,
    *,
    allow_code: bool,
    progress: Progress | None,
    models: Any = None,
    asked: Sequence[EvaluatedAdapter | None] | None = None,
) -> tuple[dict[tuple[str, str], list[Record]], dict[str, Any], int]:
    """Let models answer all suites; what lies in the folder of answers is not asked again.

    Args:
        base: folder or hub id.
        adapters: all that are evaluated.
        suites: what is asked.
        settings: loading and batching.
        cache: folder of answers.
        allow_code: whether suites may run code that the models wrote.
        progress: told (model, done, total).
        models: the base, where it is loaded already.
        asked: who answers, None for the base; by default the base and every adapter.

    Returns:
        (model, suite) → records; what is known of models and machine; how many answers are new.

    Raises:
        ConfigError: a chat template is asked for, and the tokenizer has none.
    """
    from .serving import ServedModel

    models = _load(base, adapters, settings) if models is None else models
    tokenizer = models.lm.tokenizer
    template = settings.chat_template
    if template is None:
        template = bool(getattr(tokenizer, "chat_template", None))
    elif template and not getattr(tokenizer, "chat_template", None):
        raise ConfigError(f"base {base!r}: its tokenizer has no chat template; use --no-apply-chat-template")
    if template:
        check_chat_template(tokenizer)
    check_room(suites, models.lm.max_length)
    served = ServedModel(models.lm, batch_size=models.batch_size, seed=settings.seed)
    facts: dict[str, Any] = {
        "base": base_fingerprint(base, getattr(getattr(models.lm, "_config", None), "_commit_hash", None)),
        "adapters": {adapter.name: {"files": adapter.files, "rank": adapter.rank} for adapter in adapters},
        "backend": settings.backend,
        "model": dict(models.describe()),
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "chat_template": template_fingerprint(tokenizer, template),
        "versions": library_versions(),
        "machine": platform.machine(),
    }
    # With the request itself, which holds prompt, template and decoding, this is all that decides an answer.
    deciding = {key: value for key, value in facts.items() if key not in {"adapters", "chat_template"}}
    deciding["base"] = facts["base"].get("files", facts["base"])
    records: dict[tuple[str, str], list[Record]] = {}
    generated = 0
    for adapter in (None, *adapters) if asked is None else asked:
        name = BASE_NAME if adapter is None else adapter.name
        models.use(adapter)
        before, total = 0, sum(item.samples for item in suites)
        for item in suites:
            context = {**deciding, "adapter": None if adapter is None else adapter.files, "suite": item.suite.name}
            if item.sampled:
                # A drawn answer depends on the batch it is drawn in, and so on all that is asked.
                context |= {"rows": item.rows_hash, "attempts": item.attempts}
            file = cache / f"{file_name(name)}-{file_name(item.suite.name)}-{digest(context)[:16]}.jsonl"
            if progress is not None:
                served.advance = _advance(progress, name, before, item.samples, total)
            with open_answers(file, context) as store:
                served.store = store
                records[name, item.suite.name] = item.ask(served, name, chat_template=template, allow_code=allow_code)
                generated += store.added
            before += item.samples
    models.use(None)
    return records, facts, generated


def _load(base: str, adapters: Sequence[EvaluatedAdapter], settings: ModelSettings) -> Any:
    """The models, in this process.

    Raises:
        ConfigError: started several times without sharing the work, or with a backend that starts processes itself.
    """
    if launched() != count():
        raise ConfigError(
            f"a launcher started {launched()} processes that do not share this evaluation: start `sst-merge evaluate`, "
            f"or call evaluate_models inside `with sst_merge.processes.joined():`"
        )
    if settings.backend == "vllm" and count() > 1:
        raise ConfigError(
            f"--backend vllm starts its own processes (--tensor-parallel N), and a launcher started {count()}; start "
            f"it without a launcher"
        )
    if settings.backend == "vllm":
        from .vllm import VllmModels

        return VllmModels(base, settings, adapters)
    from .hf import HuggingFaceModels

    return HuggingFaceModels(base, settings, adapters)


def _advance(progress: Progress, name: str, before: int, samples: int, total: int) -> Callable[[int, int], None]:
    """Requests of one suite as samples of all suites: option scoring has several requests a sample."""
    return lambda done, requests: progress(name, before + samples * done // requests, total)


@contextmanager
def code_allowed(wanted: bool) -> Iterator[None]:
    """Say to the tasks that code may run, for this evaluation only."""
    from ..sandbox import ALLOW_VARIABLE

    before = os.environ.get(ALLOW_VARIABLE)
    if wanted:
        os.environ[ALLOW_VARIABLE] = "1"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ[ALLOW_VARIABLE]
        elif wanted and before is not None:
            os.environ[ALLOW_VARIABLE] = before
