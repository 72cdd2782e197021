"""The whole evaluation: check, load, ask every model every suite, judge, count, write."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..data_loader import base_fingerprint, check_chat_template
from ..errors import ConfigError
from ..files import file_name
from ..judges import Judge
from ..processes import count, launched, once
from ..progress import Progress
from ..suites import Suite
from .adapters import BASE_NAME, EvaluatedAdapter, adapted_modules, check_adapters, check_names
from .answers import digest
from .calibration import CalibrationPrompts
from .checks import check_base, check_reference, check_request, check_room
from .helpfulness import with_helpfulness
from .judging import judge_records
from .loading import LoadedSuite, load_suites
from .merge_sources import find_merge_sources
from .metrics_reporter import summarize
from .output import ANSWERS, ReportWriter, check_output, write_results
from .provenance import library_versions, suite_facts, template_fingerprint
from .records import Record
from .settings import ModelSettings
from .shared_answers import open_answers
from .silence_libraries import quiet_libraries
from .summary import Summary

__all__ = ["Answerers", "EvaluationRun", "evaluate_models"]


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """What an evaluation found.

    Attributes:
        out: the folder it was written into.
        records: (model, suite) → records, the base first.
        summary: safety and skills of every model with intervals, every adapter against the base, taxes of merges.
        provenance: contents of ``run.json``.
        generated: answers that were computed in this run; the others were there already.
    """

    out: Path
    records: Mapping[tuple[str, str], Sequence[Record]]
    summary: Summary
    provenance: Mapping[str, Any]
    generated: int


def evaluate_models(
    base: str,
    adapters: Mapping[str, Path],
    suites: Sequence[Suite],
    out: Path,
    *,
    judges: Sequence[Judge] = (),
    samples: int | None = None,
    max_new_tokens: int | None = None,
    driftcheck: str | None = None,
    exclude: Sequence[CalibrationPrompts] = (),
    attempts: int | None = None,
    reference: str | None = None,
    settings: ModelSettings | None = None,
    allow_code: bool = False,
    allow_noop: bool = False,
    cache: Path | None = None,
    world_seed: int = 0,
    force: bool = False,
    write_report: ReportWriter | None = None,
    progress: Progress | None = None,
    ask_elsewhere: "Callable[[Mapping[str, Path], Path], None] | None" = None,
) -> EvaluationRun:
    """Evaluate a base and adapters on it.

    The base is always part of it. Everything that can be refused is refused before the model is loaded. A run that was
    killed goes on where it stopped: answers lie in the cache, keyed by everything that decides them.

    Args:
        base: folder or hub id of the base model.
        adapters: name → PEFT folder. What merges among them were made of is evaluated beside them where it is found
            (:func:`~.merge_sources.find_merge_sources`); a warning names what is not.
        suites: what is asked.
        out: folder to write into.
        judges: for suites whose answers are judged; the first of each column is the one that counts.
        samples: rows of each suite, drawn by the seed; all by default.
        max_new_tokens: answers are no longer than this; by default as long as the suite allows.
        driftcheck: file or hub id of the original DRIFTCHECK prompts, in place of the stand-in.
        exclude: prompts that a merge was calibrated on; rows that ask one of them are left out of every suite.
        attempts: answers drawn to each question of suites that draw several (pass@k); as many as the suite says by
            default.
        reference: model that every other one is compared with, sample by sample; the base by default.
        settings: loading and batching.
        allow_code: whether suites may run code that the models wrote.
        allow_noop: let adapters pass whose ΔW is exactly zero.
        cache: folder of answers; ``answers`` below `out` by default.
        world_seed: of the world that suites of a world ask about.
        force: replace a finished evaluation.
        write_report: writes tables, pictures and pages into the folder as well, such as
            :func:`sst_merge.reporting.write_evaluation_report`.
        progress: told (stage, done, total).
        ask_elsewhere: given every adapter (name → folder, sources of merges among them) and the folder of answers, has
            models answer into it in other processes (:meth:`Answerers.answer_as`); what it leaves out is asked here.

    Returns:
        Records, summary and provenance, as written.

    Raises:
        ConfigError: no suite, one that runs code without being allowed to, DRIFTCHECK prompts that no suite asks,
            attempts that no suite makes or too few, an unknown reference, a name that no record could have, or the
            extra `eval` is not installed.
        DataError: a judged suite, and no judge that decides its score.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
        >>> from sst_merge import evaluate_models
        >>> from sst_merge.suites import custom_suite
        >>> words = Tokenizer(models.WordLevel({"<eos>": 0, "yes": 1, "no": 2, "?": 3}, unk_token="<eos>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")
        >>> sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     base, questions = Path(place) / "base", Path(place) / "questions.jsonl"
        ...     LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)).save_pretrained(base)
        ...     _ = tokenizer.save_pretrained(base)
        ...     _ = questions.write_text(json.dumps({"prompt": "yes ?", "options": ["yes", "no"], "answer": "yes"}))
        ...     run = evaluate_models(str(base), {}, [custom_suite(questions)], Path(place) / "out")
        >>> [(record.suite, record.prompt) for record in run.records["base", "custom_questions"]]
        [('custom_questions', 'yes ?')]
    """
    settings = settings or ModelSettings()
    check_output(out, force=force)
    check_names(adapters.items())
    check_request(suites, judges, allow_code=allow_code, driftcheck=driftcheck, attempts=attempts)
    compared_with = check_reference(reference, (BASE_NAME, *adapters))
    if find_spec("lm_eval") is None:
        raise ConfigError("evaluate needs lm-evaluation-harness: pip install 'sst-merge[eval]'")
    from ..lora_utils import BaseModelIndex

    with quiet_libraries():
        index = BaseModelIndex.load(base, modules=adapted_modules(adapters), generative=True, access=settings.access)
        checked = check_adapters(adapters, index, allow_noop=allow_noop)
        sources = find_merge_sources(checked)
        checked = [*check_adapters(sources.found, index, allow_noop=allow_noop), *checked]
        check_base(suites, base, world_seed)
        loaded = load_suites(
            suites,
            samples=samples,
            seed=settings.seed,
            world_seed=world_seed,
            max_new_tokens=max_new_tokens,
            exclude=[prompt for source in exclude for prompt in source.prompts],
            driftcheck=driftcheck,
            attempts=attempts,
        )
        cache = cache or out / ANSWERS
        cache.mkdir(parents=True, exist_ok=True)
        if ask_elsewhere is not None:
            ask_elsewhere({adapter.name: adapter.path for adapter in checked}, cache)
        with _code_allowed(any(suite.runs_code for suite in suites)):
            records, facts, generated = _ask_all(
                base, checked, loaded, settings, cache, allow_code=allow_code, progress=progress
            )
        by_name = {suite.name: suite for suite in suites}
        judged = [key for key in records if by_name[key[1]].judged]
        flat = once(
            "verdicts of judges",
            lambda: judge_records(
                [record for key in judged for record in records[key]],
                judges,
                cache,
                advance=None if progress is None else lambda done, total: progress("judges", done, total),
            ),
        )
    found = iter(flat)
    for key in judged:
        records[key] = [next(found) for _ in records[key]]
    for key in [key for key in judged if by_name[key[1]].helpfulness]:
        records[key] = with_helpfulness(records[key])
    summary = summarize(
        (record for group in records.values() for record in group),
        by_name,
        required=(BASE_NAME, *(adapter.name for adapter in checked)),
        reference=compared_with,
        merges=sources.merges,
        seed=settings.seed,
    )
    summary = replace(summary, warnings=(*sources.warnings, *summary.warnings))
    if exclude:
        summary = replace(summary, left_out={item.suite.name: item.left_out for item in loaded})
    provenance = {
        "format": "sst_merge.evaluation/1",
        "samples": samples,
        "driftcheck": driftcheck,
        "exclude": [source.facts() for source in exclude],
        "suites": {item.suite.name: suite_facts(item) for item in loaded},
        "judges": {judge.column: [j.name for j in judges if j.column == judge.column] for judge in judges},
        **facts,
    }
    provenance["run"] = digest(provenance)
    records = {key: [replace(record, run=provenance["run"]) for record in group] for key, group in records.items()}
    once("the evaluation is written", lambda: write_results(out, records, summary, provenance, write_report))
    return EvaluationRun(out=out, records=records, summary=summary, provenance=provenance, generated=generated)


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
        with quiet_libraries(), _code_allowed(allow_code):
            _, _, generated = _ask_all(
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


def _ask_all(
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
def _code_allowed(wanted: bool) -> Iterator[None]:
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
