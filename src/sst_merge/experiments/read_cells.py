"""Finished cells as the measures want them: by part, group, method and seed, prompt by prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..measures.drift import DriftSamples
from ..measures.figure import Figure
from ..measures.intervals import rate, seed_interval, seed_rate_interval
from ..measures.resampling import Row
from ..measures.sweeps import SeedSamples, SeedSweep, SweepSamples
from .cells import CellStore
from .outcome_texts import unpacked
from .plan import Planned

__all__ = [
    "GroupCells",
    "expert_rows",
    "mean_over_seeds",
    "rate_over_seeds",
    "refusal_text",
    "refusals",
    "task_rows",
    "task_text",
]

Outcomes = Mapping[str, str]
Side = Mapping[str, Outcomes]


@dataclass(frozen=True)
class GroupCells:
    """One part and group of an experiment.

    Attributes:
        results: label → seed → result of its cell.
        alone: seed → single models.
    """

    results: Mapping[str, Mapping[int, Any]]
    alone: Mapping[int, Mapping[str, Any]]

    @classmethod
    def of(cls, planned: Sequence[Planned], store: CellStore, part: str, group: str) -> "GroupCells":
        """Read the finished cells of one part and group.

        Args:
            planned: the experiment.
            store: where its cells are kept.
            part: such as ``tax``.
            group: name.

        Returns:
            Their results.
        """
        results: dict[str, dict[int, Any]] = {}
        for entry in planned:
            if (entry.part, entry.group) == (part, group):
                results.setdefault(entry.label, {})[entry.seed] = store.load(entry.cell)["result"]
        alone = results.pop("alone", {})
        return cls(results, alone)

    def sweeps(self) -> dict[int, SeedSamples]:
        """What :func:`~sst_merge.measures.sweeps.seed_sweeps` takes; strengths are positions in the sweep."""
        return {
            seed: self._samples(seed, lambda sides: task_rows([side["right"] for side in sides]), expert_rows(alone))
            for seed, alone in self.alone.items()
        }

    def refusal_sweeps(self) -> dict[int, SeedSamples]:
        """The same with harmless look-alikes that are not refused in place of the skills' right answers."""
        return {seed: self._samples(seed, _answered_lookalikes) for seed in self.alone}

    def _samples(
        self,
        seed: int,
        utility: Callable[[Sequence[Side]], Mapping[str, list[list[float]]]],
        experts: Mapping[str, Row] | None = None,
    ) -> SeedSamples:
        sweeps = {}
        for label, by_seed in self.results.items():
            dev, test = by_seed[seed]["dev"], by_seed[seed]["test"]
            sweeps[label] = SweepSamples(
                strengths=range(len(test)),
                safety=[refusals(side["right"]) for side in test],
                utility=utility(test),
                # What has one configuration has chosen its strength itself: dev prompts have nothing to decide.
                dev_safety=[refusals(right) for right in dev] if len(dev) > 1 else [[1.0] * len(refusals(dev[0]))],
            )
        alone = utility([self.alone[seed]["skills alone"]["test"]])
        return SeedSamples(sweeps=sweeps, utility_only={task: rows[0] for task, rows in alone.items()}, experts=experts)

    def chosen(self, label: str, sweep: SeedSweep) -> list[Side]:
        """Test outcomes at the strength that was chosen.

        Args:
            label: method.
            sweep: of that method, over the seeds of its cells.

        Returns:
            Those of every seed that has such a strength.
        """
        return [
            result["test"][int(strength)]
            for result, strength in zip(self.results[label].values(), sweep.strengths, strict=True)
            if strength is not None
        ]

    def drift(self, seed: int) -> tuple[list[float], DriftSamples, dict[str, DriftSamples]]:
        """What :func:`~sst_merge.measures.drift.drift_draws` takes, of one seed.

        Args:
            seed: of the adapters.

        Returns:
            Refusals of the base, plain merging, and method → sweep.
        """
        alone = self.alone[seed]
        plain = alone["skills alone"]
        methods = {
            label: _drift_samples(by_seed[seed]["dev"], [point["right"] for point in by_seed[seed]["test"]])
            for label, by_seed in self.results.items()
        }
        before = refusals(alone["base"]["test"]["right"])
        return before, _drift_samples([plain["dev"]], [plain["test"]["right"]]), methods


def _answered_lookalikes(sides: Sequence[Side]) -> dict[str, list[list[float]]]:
    return {"look-alikes": [[1.0 - refused for refused in unpacked(side["other"]["lookalike"])] for side in sides]}


def _drift_samples(dev: Sequence[Outcomes], test: Sequence[Outcomes]) -> DriftSamples:
    return DriftSamples(
        dev_safety=[refusals(right) for right in dev],
        dev_utility=task_rows(dev),
        safety=[refusals(right) for right in test],
        utility=task_rows(test),
    )


def refusal_text(right: Outcomes) -> str:
    """Refusals of direct and of jailbroken requests, in this order.

    Args:
        right: kind → outcomes as text.

    Returns:
        Outcomes of both as one text.
    """
    return right["harmful"] + right["jailbreak"]


def refusals(right: Outcomes) -> list[float]:
    """:func:`refusal_text` as scores.

    Args:
        right: kind → outcomes as text.

    Returns:
        One score per prompt.
    """
    return unpacked(refusal_text(right))


def task_text(right: Outcomes) -> str:
    """Right answers to the questions of every task, task after task.

    Args:
        right: kind → outcomes as text.

    Returns:
        Outcomes of all tasks as one text.
    """
    return "".join(text for kind, text in right.items() if kind.startswith("task:"))


def task_rows(models: Sequence[Outcomes]) -> dict[str, list[list[float]]]:
    """Scores of every task.

    Args:
        models: kind → outcomes as text, one per model.

    Returns:
        Task → one row per model.
    """
    tasks = sorted(kind for kind in models[0] if kind.startswith("task:"))
    return {task.removeprefix("task:"): [unpacked(right[task]) for right in models] for task in tasks}


def expert_rows(alone: Mapping[str, Any]) -> dict[str, list[float]]:
    """Scores of every task's own adapter.

    Args:
        alone: single models of one seed.

    Returns:
        Task → one score per test prompt of the task.
    """
    return {
        name.removeprefix("expert "): unpacked(model["test"]["right"][f"task:{name.removeprefix('expert ')}"])
        for name, model in alone.items()
        if name.startswith("expert ")
    }


def rate_over_seeds(texts: Sequence[str]) -> Figure | None:
    """A rate with its interval: over seeds where there are several, of the prompts where there is one.

    Args:
        texts: outcomes of each seed.

    Returns:
        Mean rate and 95 % interval; None without seeds.
    """
    if not texts:
        return None
    counts = [(text.count("1"), len(text)) for text in texts]
    if len(counts) > 1:
        return seed_rate_interval(counts)
    return rate(*counts[0])


def mean_over_seeds(values: Sequence[float]) -> Figure | None:
    """A figure that is no rate, with Student's interval over seeds.

    Args:
        values: one per seed.

    Returns:
        Mean and interval; without seeds None, with one seed no width.
    """
    if not values:
        return None
    return seed_interval(values) if len(values) > 1 else Figure(values[0], values[0], values[0], 1)
