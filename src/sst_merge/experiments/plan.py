"""From a configuration to cells: which merges are measured, on which adapters, with which prompts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._version import __version__
from ..methods import MethodSweep, get_method, parse_options
from ..worlds.asking import all_kinds
from ..worlds.outcomes import HARM, task_kind
from ..worlds.world import ALIGNED, SAFETY, UNALIGNED, joint
from .ablation import ablation_sweeps
from .cells import Cell
from .config import ExperimentConfig, SkillGroup, WorldChoice
from .method_sweeps import DRIFT_SWEEPS, METHOD_SWEEPS, TWO_STAGE_SWEEPS, chosen_sweeps
from .provenance import code_digest, folder_digest, versions
from .setups import world_of
from .subsets import Subset, plain_experts, poisoned_subsets, random_subsets
from .training import artefacts_of
from .work import WORK

__all__ = ["JOINT", "Planned", "Planner"]

JOINT = "joint training"
"""A model beside the merges: one adapter, trained on the data of all that are merged."""

_DRIFT_METHODS = {swept.method for swept in DRIFT_SWEEPS.values()}


@dataclass(frozen=True)
class Planned:
    """A cell with the names that tables use.

    Attributes:
        cell: the work.
        part: of the experiment, such as ``tax`` or ``drift``.
        group: skills, subset or variant.
        label: swept; ``alone`` for models that stand beside them.
        seed: of the adapters (or number of the subset).
    """

    cell: Cell
    part: str
    group: str
    label: str
    seed: int


class Planner:
    """All cells of a configuration.

    Args:
        config: what is asked for.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config

    def safety_tax(self) -> list[Planned]:
        """Experiment 1: sweeps on the unaligned base, drift on the aligned one, headline methods on a second base.

        Returns:
            The cells, those of one problem together.
        """
        found: list[Planned] = []
        config = self.config
        for seed in config.seeds:
            for group in _with_seed(config.safety_tax.groups, seed, config.seeds):
                methods = config.safety_tax.methods or group.methods
                found += self._sweeps(
                    "tax", group.name, group.skills, methods, config.world, seed, together=group.joint_with(seed)
                )
        drift = config.safety_tax.drift
        for seed in config.seeds if drift is not None else ():
            assert drift is not None
            for group in _with_seed(drift.groups, seed, config.seeds):
                methods = config.safety_tax.methods or group.methods
                fitting = [m for m in methods if m in DRIFT_SWEEPS or m in _DRIFT_METHODS]
                if fitting or not methods:
                    found += self._drift(group.name, group.skills, fitting, seed)
        second = config.safety_tax.second_base
        for seed in second.seeds if second is not None else ():
            assert second is not None
            for group in _with_seed(second.groups, seed, second.seeds):
                name = f"{second.world.label}, {group.name}"
                found += self._sweeps(
                    "second base",
                    name,
                    group.skills,
                    group.methods,
                    second.world,
                    seed,
                    together=group.joint_with(seed),
                )
        return found

    def interference(self) -> list[Planned]:
        """Experiment 2: random sets of experts, and sets with the poisoned expert among them.

        Returns:
            The cells, those of one problem together.
        """
        config, experts = self.config.interference, self.config.world.experts
        labels = list(chosen_sweeps(config.methods, TWO_STAGE_SWEEPS))
        families = config.families or plain_experts(experts)
        count, seeds = config.subsets, config.seeds
        found: list[Planned] = []
        for part, base, subsets in (
            ("experts", UNALIGNED, random_subsets(families, config.sizes, count, seeds)),
            ("poisoned", ALIGNED, poisoned_subsets(families, experts, config.poisoned_sizes, count, seeds)),
        ):
            for subset in subsets:
                found += self._interference(part, base, subset, labels)
        return found

    def comparison(self) -> list[Planned]:
        """Experiment 3: every method on experiment 1's first group (the same cells), its cost, and the ablation.

        Returns:
            The cells, those of one problem together.
        """
        config, group = self.config, self.config.safety_tax.groups[0]
        found: list[Planned] = []
        for seed in group.seeds_of(config.seeds):
            found += self._sweeps(
                "methods",
                group.name,
                group.skills,
                config.comparison.methods,
                config.world,
                seed,
                together=group.joint_with(seed),
            )
        for seed in config.comparison.ablation.seeds:
            found += self._ablation(group.skills, seed)
        problem = self._problem(group.skills, group.seeds_of(config.seeds)[0])
        for label, swept in chosen_sweeps(config.comparison.methods, METHOD_SWEEPS).items():
            for repeat in range(config.comparison.cost_repeats):
                parameters = {"problem": problem, "swept": _plain(swept), "repeat": repeat}
                cell = self._cell("cost", f"cost of {label}, {repeat + 1}", parameters, swept.method)
                found.append(Planned(cell, "cost", group.name, label, repeat))
        return found

    def _problem(self, skills: Sequence[str], seed: int, **otherwise: Any) -> dict[str, Any]:
        calibration = self.config.calibration
        problem: dict[str, Any] = {
            "world": self.config.world.parameters,
            "base": UNALIGNED,
            "skills": list(skills),
            "safety": True,
            "adapter_seed": seed,
            "harm": calibration.harm,
            "benign": calibration.benign,
            "skill_share": 0.5,
            "seed": seed,
        }
        return problem | otherwise

    def _sweeps(
        self,
        part: str,
        group: str,
        skills: Sequence[str],
        methods: Sequence[str],
        world: WorldChoice,
        seed: int,
        *,
        together: bool = False,
    ) -> list[Planned]:
        problem, prompts = self._problem(skills, seed, world=world.parameters), self.config.prompts
        dev, test = dict.fromkeys(HARM, prompts.dev), all_kinds(skills, prompts.test)
        models: dict[str, list[str]] = {"base": [], "skills alone": list(skills), "safety alone": [SAFETY]}
        models |= {JOINT: [joint([*skills, SAFETY])]} if together else {}
        models |= {f"expert {skill}": [skill] for skill in skills}
        found = [self._alone(part, group, problem, models, dev, test, seed)]
        for label, swept in chosen_sweeps(methods, METHOD_SWEEPS).items():
            cell = self._sweep(f"{label}, {group}, seed {seed}", problem, swept, dev, test)
            found.append(Planned(cell, part, group, label, seed))
        return found

    def _drift(self, group: str, skills: Sequence[str], methods: Sequence[str], seed: int) -> list[Planned]:
        problem, prompts = self._problem(skills, seed, base=ALIGNED, safety=False), self.config.prompts
        dev = dict.fromkeys([*HARM, *map(task_kind, skills)], prompts.dev)
        test = all_kinds(skills, prompts.test)
        models: dict[str, list[str]] = {"base": [], "skills alone": list(skills)}
        models |= {f"expert {skill}": [skill] for skill in skills}
        found = [self._alone("drift", group, problem, models, dev, test, seed)]
        for label, swept in chosen_sweeps(methods, DRIFT_SWEEPS).items():
            cell = self._sweep(f"drift of {label}, {group}, seed {seed}", problem, swept, dev, test)
            found.append(Planned(cell, "drift", group, label, seed))
        return found

    def _ablation(self, skills: Sequence[str], seed: int) -> Iterator[Planned]:
        config = self.config.comparison.ablation
        dev, test = dict.fromkeys(HARM, config.prompts.dev), all_kinds(skills, config.prompts.test)
        models = {"skills alone": list(skills)} | {f"expert {skill}": [skill] for skill in skills}
        yield self._alone("ablation", "SST-Merge", self._problem(skills, seed), models, dev, test, seed)
        for label, (swept, otherwise) in ablation_sweeps(config).items():
            problem = self._problem(skills, seed, **otherwise)
            cell = self._sweep(
                f"ablation, {label}, seed {seed}",
                problem,
                swept,
                dev,
                test,
                quotients=swept.method == "sst",
            )
            yield Planned(cell, "ablation", "SST-Merge", label, seed)

    def _interference(self, part: str, base: str, subset: Subset, labels: Sequence[str]) -> Iterator[Planned]:
        config, n = self.config.interference, len(subset.skills)
        problem = self._problem(
            subset.skills,
            subset.adapter_seed,
            base=base,
            safety=base == UNALIGNED,
            benign=2 * n * config.samples_per_skill,
        )
        group, experts = f"{n} experts", self.config.world.experts
        # A poisoned expert is asked about its task, and stands for nothing that could be retained.
        models: dict[str, list[str]] = {"base": []}
        if n in config.joint_sizes and base == UNALIGNED:
            models[JOINT] = [joint([*subset.skills, SAFETY])]
        models |= {f"expert {name}": [name] for name in subset.skills if experts[name] == name}
        test = all_kinds([experts[name] for name in subset.skills], config.prompts.test)
        yield self._alone(part, group, problem, models, {}, test, subset.number)
        for label in labels:
            staged = asdict(TWO_STAGE_SWEEPS[label].thinned(self.config.strengths))
            staged.pop("label")
            parameters = {
                "problem": problem,
                "staged": staged,
                "dev": config.prompts.dev,
                "test": config.prompts.test,
                "threshold": 0.9,
                "with_safety": config.with_safety if base == UNALIGNED else staged["method"] == "sst",
            }
            title = f"{label}, {group}, {part} {subset.number}"
            cell = self._cell("interference", title, parameters, staged["method"])
            yield Planned(cell, part, group, label, subset.number)

    def _alone(
        self,
        part: str,
        group: str,
        problem: Mapping[str, Any],
        models: Mapping[str, Sequence[str]],
        dev: Mapping[str, int],
        test: Mapping[str, int],
        seed: int,
    ) -> Planned:
        # All that an expert stands for is how well its own task can be done.
        own = {
            model: [task_kind(name) for name in names] for model, names in models.items() if model.startswith("expert ")
        }
        parameters = {"problem": problem, "models": models, "dev": dev, "test": test, "own": own}
        cell = self._cell("alone", f"single models, {group}, {part} {seed}", parameters)
        return Planned(cell, part, group, "alone", seed)

    def _sweep(
        self,
        title: str,
        problem: Mapping[str, Any],
        swept: MethodSweep,
        dev: Mapping[str, int],
        test: Mapping[str, int],
        quotients: bool = False,
    ) -> Cell:
        swept = swept.thinned(self.config.strengths)
        parameters = {"problem": problem, "swept": _plain(swept), "dev": dev, "test": test, "quotients": quotients}
        return self._cell("sweep", title, parameters, swept.method)

    def _cell(self, kind: str, title: str, parameters: Mapping[str, Any], method: str | None = None) -> Cell:
        problem = parameters["problem"]
        world = world_of(problem["world"])
        modules = [WORK[kind].__module__, type(world).__module__]
        depends: dict[str, Any] = {
            "version": __version__,
            "torch": versions()["torch"],
            "world": world.identity(),
            "artefacts": {a.adapter or str(a): folder_digest(world.find(a)) for a in artefacts_of(parameters)},
        }
        if method is not None:
            options = dict(parameters.get("swept", parameters.get("staged", {})).get("options", {}))
            depends["options"] = parse_options(get_method(method), options).model_dump(mode="json")
        depends["code"] = code_digest(*modules, method=method)
        return Cell(kind, title, parameters, depends)


def _with_seed(groups: Sequence[SkillGroup], seed: int, seeds: Sequence[int]) -> list[SkillGroup]:
    return [group for group in groups if seed in group.seeds_of(seeds)]


def _plain(swept: MethodSweep) -> dict[str, Any]:
    fields = asdict(swept)
    fields.pop("label")
    return fields
