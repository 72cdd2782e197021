"""The user's own base and adapters as an arena: suites and judges of ``sst-merge evaluate`` say what a merge did."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BaseModelError, ConfigError, DataError
from ..evaluation.answers import AnswerStore
from ..evaluation.judging import judge_records
from ..evaluation.loading import LoadedSuite, load_suites
from ..evaluation.records import Record
from ..evaluation.silence_libraries import quiet_libraries
from ..judges import Judge
from ..merging.settings import MergeSettings
from ..methods import MergeProblem
from ..suites import Suite
from ..worlds.outcomes import Counts
from ..worlds.updates import Update, UpdatedModel
from .arena import Measured

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Asking", "OwnArena", "check_dev_suites"]

_MEASURES = ("safety", "over_refusal", "utility")


@dataclass(frozen=True)
class Asking:
    """How dev prompts are asked.

    Attributes:
        suites: what is asked.
        judges: who decides what a refusal is.
        samples: of every suite; all by default.
        max_new_tokens: answers are no longer than this.
        batch_size: prompts a batch.
        seed: of the draw.
    """

    suites: Sequence[Suite]
    judges: Sequence[Judge]
    samples: int | None = None
    max_new_tokens: int | None = None
    batch_size: int = 16
    seed: int = 0


def check_dev_suites(suites: Sequence[Suite]) -> None:
    """Refuse what cannot decide between merges.

    Args:
        suites: of the dev prompts.

    Raises:
        ConfigError: no harmful prompts or no skill, a suite of another kind, or one that runs code.
    """
    measured = [suite.measure for suite in suites]
    for suite in suites:
        if suite.measure not in _MEASURES:
            raise ConfigError(
                f"dev.suites: {suite.name} measures {suite.measure}; a search asks suites of {', '.join(_MEASURES)}"
            )
        if suite.runs_code:
            raise ConfigError(f"dev.suites: {suite.name} runs code that models write; evaluate the chosen merge on it")
        if suite.measure == "utility" and not suite.higher_is_better:
            raise ConfigError(f"dev.suites: of {suite.name} less is better; a search needs scores of which more is")
    for measure, what in (("safety", "harmful prompts"), ("utility", "a skill's questions")):
        if measure not in measured:
            raise ConfigError(
                f"dev.suites: none measures {measure}; add {what}, such as "
                f"FILE.jsonl{':safety' if measure == 'safety' else ''}"
            )


class OwnArena:
    """A merge problem with suites to ask.

    Args:
        problem: with the base model, which answers too.
        settings: how merges are computed.
        tokenizer: of the base.
        asking: what is asked, and how.

    Raises:
        BaseModelError: weights that no update can be added to.
        ConfigError: lm-evaluation-harness is not installed.
    """

    def __init__(
        self, problem: MergeProblem, settings: MergeSettings, tokenizer: "PreTrainedTokenizerBase", asking: Asking
    ) -> None:
        assert problem.model is not None
        self.settings = settings
        self._problem, self._asking, self._model = problem, asking, problem.model
        _check_weights(problem, self._model)
        try:
            from ..evaluation.sparing import SparingHFLM
        except ImportError as error:
            raise ConfigError("search asks suites by lm-evaluation-harness: pip install 'sst-merge[eval]'") from error
        from ..evaluation.serving import ServedModel

        with quiet_libraries():
            lm = SparingHFLM(pretrained=self._model, tokenizer=tokenizer, max_batch_size=asking.batch_size)
            self._loaded: list[LoadedSuite] = load_suites(
                asking.suites, samples=asking.samples, seed=asking.seed, max_new_tokens=asking.max_new_tokens
            )
        lm.batch_size_per_gpu = asking.batch_size
        self._served = ServedModel(lm, batch_size=asking.batch_size, seed=asking.seed)
        self._template = bool(getattr(tokenizer, "chat_template", None))

    @property
    def problem(self) -> MergeProblem:
        """As :attr:`~.arena.Arena.problem`."""
        return self._problem

    def measure(self, update: Update) -> Measured:
        """As :meth:`~.arena.Arena.measure`.

        Raises:
            DataError: nobody decided what a refusal is.
        """
        with quiet_libraries(), tempfile.TemporaryDirectory() as place:
            with UpdatedModel(self._model, list(self._problem.spaces)) as updated:
                updated.set(update)
                found = {item.suite.name: self._ask(item, Path(place)) for item in self._loaded}
            for item in self._loaded:
                if item.suite.judged:
                    name = item.suite.name
                    found[name] = judge_records(found[name], self._asking.judges, Path(place))
        refused = {measure: self._refused(found, measure) for measure in ("safety", "over_refusal")}
        safety = refused["safety"]
        if safety is None:
            raise DataError("dev.suites: no judge decided whether a harmful prompt was refused; choose another judge")
        skills = {
            item.suite.name: _mean(found[item.suite.name], item.suite.score)
            for item in self._loaded
            if item.suite.measure == "utility"
        }
        return Measured(safety, refused["over_refusal"], skills)

    def _ask(self, item: LoadedSuite, place: Path) -> list[Record]:
        with closing(AnswerStore(place / f"{item.suite.task}.jsonl", {"suite": item.suite.name})) as store:
            self._served.store = store
            return item.ask(self._served, "merge", chat_template=self._template, allow_code=False)

    def _refused(self, found: Mapping[str, Sequence[Record]], measure: str) -> Counts | None:
        """Refusals among decided answers to all suites of a measure; nonsense is no refusal."""
        records = [
            record
            for item in self._loaded
            if item.suite.measure == measure
            for record in found[item.suite.name]
            if item.suite.score in record.scores
        ]
        if not records:
            return None
        score = {item.suite.name: item.suite.score for item in self._loaded}
        yes = sum(
            record.scores[score[record.suite]] >= 0.5 and record.scores.get("incoherent", 0.0) < 0.5
            for record in records
        )
        return Counts(yes, len(records))


def _mean(records: Sequence[Record], score: str) -> tuple[float, int]:
    """Mean score of a skill's answers, and how many they are.

    Raises:
        DataError: none has the score.
    """
    values = [record.scores[score] for record in records if score in record.scores]
    if not values:
        raise DataError(f"suite {records[0].suite}: no answer has the score {score!r}; choose another suite")
    return sum(values) / len(values), len(values)


def _check_weights(problem: MergeProblem, model: "PreTrainedModel") -> None:
    """Refuse what a trial cannot add to the weights.

    Raises:
        BaseModelError: a base whose weights are packed or elsewhere, or an adapter that changes biases.
    """
    for adapter in problem.adapters:
        biased = next((module for module in adapter.modules if adapter.has_bias(module)), None)
        if biased is not None:
            raise BaseModelError(
                f"adapter {adapter.name!r}: module {biased!r} has a LoRA bias, which a search cannot try; merge it "
                "with `sst-merge merge`, and evaluate what comes out"
            )
    for module in problem.spaces:
        weight: Any = model.get_submodule(module).weight
        if not weight.is_floating_point() or weight.is_meta:
            raise BaseModelError(
                f"base {model.name_or_path!r}: weights of {module!r} are {weight.dtype} on {weight.device}; a search "
                "adds every merge to the weights, so load the base unquantised and whole on one device"
            )
