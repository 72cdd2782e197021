"""The study on disk: what was proposed, what came of it. Optuna proposes, by a sampler that learns from all trials.

A study that was killed goes on as if it had not been: the sampler is seeded by the number of the trial, trials that
were under way are measured first, and proposals are told in their order whoever was faster.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from ..experiments.cells import canonical
from .arena import Measured
from .point import Point
from .space import Space

if TYPE_CHECKING:
    import optuna

__all__ = ["Study", "Trial"]

_FILE = "study.journal"
_SAID, _LIMIT = "search", "limit"
_POINT, _FOUND, _FAILED = "point", "found", "failed"
_OVER_REFUSAL = "over_refusal"


@dataclass(frozen=True)
class Trial:
    """One merge of a study.

    Attributes:
        number: in the order of the proposals, from 0.
        point: the merge.
        measured: what came of it; None where it is still to be measured, or failed.
        failure: what was wrong with it, or None.
    """

    number: int
    point: Point
    measured: Measured | None = None
    failure: str | None = None


class Study:
    """A study in a folder.

    Args:
        out: the folder.
        space: what may be tried.
        said: plain values that decide the study; one with others in the same folder is refused.
        limit: over-refusal that proposals should not exceed; a study that is there keeps the one that it began with.
        seed: of the proposals.
        warm: parameters of the merges that are tried first.

    Raises:
        ConfigError: Optuna is not installed, or the folder holds another study.
        DataError: the study's file is damaged.
    """

    def __init__(
        self,
        out: Path,
        space: Space,
        said: Mapping[str, Any],
        *,
        limit: float,
        seed: int,
        warm: Sequence[Mapping[str, Any]],
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ConfigError("search needs Optuna: pip install 'sst-merge[search]'") from error
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.seed = space, seed
        file = out / _FILE
        out.mkdir(parents=True, exist_ok=True)
        with _quiet():
            try:
                storage = JournalStorage(JournalFileBackend(str(file)))
                self._study: optuna.Study = optuna.create_study(
                    study_name="search", storage=storage, directions=["maximize", "maximize"], load_if_exists=True
                )
                before = self._study.user_attrs.get(_SAID)
                self.limit: float = self._study.user_attrs.get(_LIMIT, limit)
            except (ValueError, KeyError) as error:
                raise DataError(f"{file}: no study ({error}); remove the file and search again") from error
        now = canonical({"search": said, "warm": [dict(one) for one in warm]})
        if before is not None and before != now:
            raise ConfigError(
                f"{out}: holds a search for something else ({_differing(before, now)}); choose another folder (--out), "
                "or remove it"
            )
        self.warm = len(warm)
        if before is None:
            for parameters in warm[len(self._study.trials) :]:
                self._study.enqueue_trial(dict(parameters))
            self._study.set_user_attr(_LIMIT, limit)
            self._study.set_user_attr(_SAID, now)

    def propose(self, most: int, at_once: int) -> list[Trial]:
        """What is to be measured next: what was under way, else new proposals.

        Args:
            most: trials of the study in all.
            at_once: how many are proposed before the first of them is measured; those of a warm start all are.

        Returns:
            Trials without a measure; none where the study has as many as it should.
        """
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and _POINT not in trial.user_attrs:
                with _quiet():
                    self._finish_proposal(trial.number)
        states = [trial.state for trial in trials]
        asked = sum(state != TrialState.WAITING for state in states)
        running = sum(state == TrialState.RUNNING for state in states)
        # Killed amid its proposals, a batch is completed; killed later, what is left of it comes before new ones.
        if asked < self.warm:
            upto = min(most, self.warm)
        elif running and (asked - self.warm) % at_once == 0:
            upto = asked
        else:
            upto = min(most, asked + at_once - (asked - self.warm) % at_once)
        with _quiet():
            for number in range(asked, upto):
                self._ask(number)
        return [trial for trial in self.trials() if trial.measured is None and trial.failure is None]

    def tell(self, trial: Trial, found: Measured | str) -> None:
        """Keep what came of a trial.

        Args:
            trial: one of :meth:`propose`.
            found: its measure, or what was wrong with it.
        """
        from optuna.samplers import RandomSampler
        from optuna.trial import TrialState

        with _quiet():
            self._study.sampler = RandomSampler(seed=self.seed)  # nothing is proposed here
            live = self._live(trial.number)
            if isinstance(found, str):
                live.set_user_attr(_FAILED, found)
                self._study.tell(trial.number, state=TrialState.FAIL)
                return
            live.set_user_attr(_FOUND, found.to_dict())
            if found.over_refusal is not None:
                live.set_constraint(_OVER_REFUSAL, found.over_refusal.rate - self.limit)
            self._study.tell(trial.number, [found.safety.rate, found.skill])

    def trials(self) -> list[Trial]:
        """All that were proposed, in order."""
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            if _POINT in trial.user_attrs:
                said = trial.user_attrs
                measured = Measured.from_dict(said[_FOUND]) if _FOUND in said and trial.state.is_finished() else None
                failure = said.get(_FAILED) if trial.state.is_finished() else None
                found.append(Trial(trial.number, Point(**said[_POINT]), measured, failure))
        return found

    def _ask(self, number: int) -> None:
        self._seed(number)
        self._keep_point(self._study.ask())

    def _finish_proposal(self, number: int) -> None:
        """Of a trial that was killed before all its values were proposed: the same seed proposes them again."""
        self._seed(number)
        self._keep_point(self._live(number))

    def _seed(self, number: int) -> None:
        from optuna.samplers import TPESampler

        self._study.sampler = TPESampler(seed=(self.seed * 1_000_003 + number) % 2**32, multivariate=True, group=True)

    def _keep_point(self, trial: "optuna.trial.Trial") -> None:
        point = self.space.point(trial)
        trial.set_user_attr(_POINT, {"label": point.label, **point.parameters})

    def _live(self, number: int) -> "optuna.trial.Trial":
        """A trial that was proposed before, perhaps by a process that is no more."""
        from optuna.trial import Trial as Live

        return Live(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)


def _differing(before: str, now: str) -> str:
    """Which fields are not the same."""
    old, new = json.loads(before), json.loads(now)
    fields = [name for name in new["search"] if old["search"].get(name) != new["search"][name]]
    fields += ["warm start"] if old["warm"] != new["warm"] else []
    return ", ".join(fields) or "of another version"


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna calls half of what it recommends experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
