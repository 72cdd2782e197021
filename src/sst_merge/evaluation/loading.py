"""A suite as lm-evaluation-harness tasks: built once, asked of every model, answers turned into records."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError
from ..suites import LEFT_OUT, Suite
from ..suites.sets import read_set
from .answers import digest
from .records import Record

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from transformers import PreTrainedTokenizerBase

    from .serving import ServedModel

__all__ = ["AskedOnce", "LoadedSuite", "load_suites"]

# What lm-evaluation-harness's own metrics are called in our records.
_OWN_NAMES = {"acc": "correct", "exact_match": "correct"}
_LONGEST_ANSWER = 256  # of a task that sets no limit, lm-evaluation-harness's own


class AskedOnce(NamedTuple):
    """One request to a model.

    Attributes:
        prompt: what it reads.
        option: text whose likelihood is asked after the prompt; empty where an answer is written.
        longest: tokens of the answer at most; None where an option is scored.
        times: answers that are drawn.
    """

    prompt: str
    option: str
    longest: int | None
    times: int


@dataclass(frozen=True, kw_only=True)
class LoadedSuite:
    """A suite whose data are read and whose samples are drawn.

    Attributes:
        suite: what it is.
        tasks: lm-evaluation-harness's task name → task.
        samples: how many samples are asked.
        attempts: answers drawn to each.
        left_out: rows that are not asked because a merge was calibrated on their prompt.
        rows_hash: SHA-256 over the rows asked, in order.
        sets: data set → SHA-256 over all its rows.
        decoding: task name → settings of generation; empty for option scoring.
    """

    suite: Suite
    tasks: "Mapping[str, Task]"
    samples: int
    attempts: int
    left_out: int
    rows_hash: str
    sets: Mapping[str, str]
    decoding: Mapping[str, Any]

    @property
    def sampled(self) -> bool:
        """Whether answers are drawn, not the likeliest."""
        return any(settings.get("do_sample") for settings in self.decoding.values())

    def requests(self, tokenizer: "PreTrainedTokenizerBase", *, chat_template: bool) -> Iterator[AskedOnce]:
        """Everything that a model will be asked; the requests are built, and asked of nobody."""

        def template(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return str(
                tokenizer.apply_chat_template(
                    history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        more = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": template}
        for task in self.tasks.values():
            task.build_all_requests(**more if chat_template else {})
            for one in task.instances:
                if one.request_type == "generate_until":
                    prompt, settings = one.args
                    yield AskedOnce(prompt, "", int(settings.get("max_gen_toks", _LONGEST_ANSWER)), one.repeats or 1)
                else:
                    yield AskedOnce(one.args[0], one.args[1] if len(one.args) > 1 else "", None, 1)

    def ask(self, model: "ServedModel", name: str, *, chat_template: bool, allow_code: bool) -> list[Record]:
        """Ask a model, with the store open: one record a sample, in the order of the data."""
        from lm_eval.evaluator import evaluate

        model.suite = self.suite.name
        results = evaluate(
            model,
            {"tasks": dict(self.tasks)},
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            confirm_run_unsafe_code=allow_code,
        )
        assert results is not None
        logged = results["samples"]
        return [
            self._record(task, sample, name)
            for task in self.tasks
            for sample in sorted(_last_filter(logged[task]), key=lambda sample: sample["doc_id"])
        ]

    def _record(self, task: str, sample: Mapping[str, Any], model: str) -> Record:
        doc = sample["doc"]
        scores: dict[str, float] = {}
        for metric in sample["metrics"]:
            value = sample[metric]
            if isinstance(value, bool | int | float):
                scores.setdefault(metric, float(value))
        for theirs, ours in _OWN_NAMES.items():
            if theirs in scores and ours not in scores:
                scores[ours] = scores.pop(theirs)
        if not self.suite.judged and self.suite.score not in scores:
            raise DataError(
                f"suite {self.suite.name!r}: task {task!r} gave {', '.join(scores) or 'no score'} for "
                f"sample {doc.get('id', sample['doc_id'])!r}, expected {self.suite.score!r}; its "
                f"process_results must return it"
            )
        return Record(
            model=model,
            suite=self.suite.name,
            id=str(doc.get("id", f"{task}/{sample['doc_id']}")),
            prompt=str(doc.get("prompt", sample["arguments"][0][0])),
            response=str(doc.get("prefill") or "") + _response(self.tasks[task], sample),
            tags=_tags(doc),
            scores=scores,
            judges=dict.fromkeys(scores, f"task {task}"),
        )


def load_suites(
    suites: Sequence[Suite],
    *,
    samples: int | None,
    seed: int,
    world_seed: int = 0,
    max_new_tokens: int | None = None,
    exclude: Sequence[str] = (),
    driftcheck: str | None = None,
    attempts: int | None = None,
) -> list[LoadedSuite]:
    """Read the data of every suite and draw the samples; no model is needed.

    Args:
        suites: the suites.
        samples: how many rows of each are asked, drawn by the seed; all by default.
        seed: of the draw and of few-shot examples.
        world_seed: of the world that suites of a world ask about.
        max_new_tokens: answers are no longer than this; by default as long as the suite allows.
        exclude: prompts that were calibrated on, which are left out.
        driftcheck: file or hub id of the original DRIFTCHECK prompts, in place of the stand-in.
        attempts: answers drawn to each question of suites that draw several; as many as their tasks say by default.

    Returns:
        The suites, in the order given.
    """
    from lm_eval.tasks import TaskManager

    metadata: dict[str, Any] = {"samples": samples, "seed": seed, "world_seed": world_seed, "exclude": tuple(exclude)}
    if driftcheck is not None:
        metadata["driftcheck"] = driftcheck
    manager = TaskManager(include_defaults=False, metadata=metadata)
    loaded = []
    for suite in suites:
        tasks = manager.load([suite.config])["tasks"]
        for task in tasks.values():
            task.set_fewshot_seed(seed)
            longest = (task.config.generation_kwargs or {}).get("max_gen_toks")
            if longest is not None and max_new_tokens is not None:
                task.config.generation_kwargs["max_gen_toks"] = min(longest, max_new_tokens)
            if attempts is not None and suite.pass_k is not None:
                task.config.repeats = attempts
            _build_once(task)
        rows = [[name, list(task.eval_docs)] for name, task in tasks.items()]
        decoding = {name: task.config.generation_kwargs for name, task in tasks.items()}
        # The original prompts take the stand-in's place: none of its sets is read, and the rows' hash names them.
        sets = () if suite.measure == "drift" and driftcheck is not None else suite.sets
        loaded.append(
            LoadedSuite(
                suite=suite,
                tasks=tasks,
                samples=sum(len(found) for _, found in rows),
                attempts=max(task.config.repeats for task in tasks.values()),
                left_out=sum(len(task.dataset.get(LEFT_OUT, ())) for task in tasks.values()),
                rows_hash=digest(rows),
                sets={spec.name: read_set(spec).sha256 for spec in sets},
                decoding={name: settings for name, settings in decoding.items() if settings},
            )
        )
    return loaded


def _build_once(task: "Task") -> None:
    """Let a task build its requests for the first model only; for the next ones, they are emptied of answers."""
    build, built = task.build_all_requests, False

    def build_or_reuse(**options: Any) -> None:
        nonlocal built
        if not built:
            build(**options)
            built = True
        for instance in task._instances:
            instance.resps = []
            instance.filtered_resps = {}

    task.build_all_requests = build_or_reuse


def _last_filter(logged: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A task with several filters logs a sample once for each; the last filter is the one that it ends in."""
    last = logged[-1]["filter"]
    return [sample for sample in logged if sample["filter"] == last]


def _response(task: "Task", sample: Mapping[str, Any]) -> str:
    """What was generated (several samples as a JSON list), or the likeliest option; empty where texts are scored."""
    if task.OUTPUT_TYPE == "generate_until":
        answers = sample["resps"][0]
        return str(answers[0]) if len(answers) == 1 else json.dumps(answers, ensure_ascii=False)
    if task.OUTPUT_TYPE == "multiple_choice":
        scores = [float(answers[0][0]) for answers in sample["resps"]]
        return str(sample["arguments"][scores.index(max(scores))][1]).strip()
    return ""


def _tags(doc: Mapping[str, Any]) -> dict[str, str]:
    tags = doc.get("tags") or "{}"
    found = json.loads(tags) if isinstance(tags, str) else tags
    return {str(name): str(value) for name, value in found.items()}
