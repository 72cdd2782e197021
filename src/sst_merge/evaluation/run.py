"""The whole evaluation: check, load, ask every model every suite, judge, count, write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..judges import Judge
from ..processes import once
from ..progress import Progress
from ..suites import Suite
from .adapters import BASE_NAME
from .answering import ask_all, code_allowed
from .answers import digest
from .calibration import CalibrationPrompts
from .helpfulness import with_helpfulness
from .judging import judge_records
from .metrics_reporter import summarize
from .output import ANSWERS, ReportWriter, write_results
from .plan import plan_evaluation
from .provenance import suite_facts
from .records import Record
from .settings import ModelSettings
from .silence_libraries import quiet_libraries
from .summary import Summary

__all__ = ["EvaluationRun", "evaluate_models"]


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
            models answer into it in other processes (:meth:`~.answering.Answerers.answer_as`); what it leaves out is
            asked here.

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
    plan = plan_evaluation(
        base,
        adapters,
        suites,
        out,
        judges=judges,
        samples=samples,
        max_new_tokens=max_new_tokens,
        driftcheck=driftcheck,
        exclude=exclude,
        attempts=attempts,
        reference=reference,
        settings=settings,
        allow_code=allow_code,
        allow_noop=allow_noop,
        world_seed=world_seed,
        force=force,
    )
    checked, sources, loaded = plan.adapters, plan.sources, plan.suites
    with quiet_libraries():
        cache = cache or out / ANSWERS
        cache.mkdir(parents=True, exist_ok=True)
        if ask_elsewhere is not None:
            ask_elsewhere({adapter.name: adapter.path for adapter in checked}, cache)
        with code_allowed(any(suite.runs_code for suite in suites)):
            records, facts, generated = ask_all(
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
        reference=plan.reference,
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
