"""From a configuration to cells: which merges are measured, on which adapters, with which prompts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._version import __version__
from ..methods import MethodSweep, get_method, parse_options
from ..worlds.lab import Lab
from ..worlds.lab.lab import BASES
from .ablation import ablation_sweeps
from .cells import Cell
from .config import ExperimentConfig
from .method_sweeps import DRIFT_SWEEPS, METHOD_SWEEPS, TWO_STAGE_SWEEPS, chosen_sweeps
from .provenance import code_digest, file_digest, method_rooms, versions
from .subsets import Subset, poisoned_subsets, random_subsets

__all__ = ["Planned", "Planner", "adapter_cells", "artefacts", "training_stages"]

_DRIFT_METHODS = {swept.method for swept in DRIFT_SWEEPS.values()}
_ASKED = ("harmful", "jailbreak", "lookalike", "general")


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
        labs: lab seed → lab.
    """

    def __init__(self, config: ExperimentConfig, labs: Mapping[int, Lab]) -> None:
        self.config, self.labs = config, labs

    def safety_tax(self) -> list[Planned]:
        """Experiment 1: sweeps on the unaligned base, drift on the aligned one, headline methods on a second base.

        Returns:
            The cells, those of one problem together.
        """
        found: list[Planned] = []
        config = self.config
        for seed in config.seeds:
            for group in config.safety_tax.groups:
                methods = config.safety_tax.methods or group.methods
                found += self._sweeps("tax", group.name, group.skills, methods, config.lab_seed, seed)
        for seed in config.seeds:
            for group in config.safety_tax.drift.groups:
                methods = config.safety_tax.methods or group.methods
                fitting = [m for m in methods if m in DRIFT_SWEEPS or m in _DRIFT_METHODS]
                if fitting or not methods:
                    found += self._drift(group.name, group.skills, fitting, seed)
        second = config.safety_tax.second_base
        for seed in second.seeds if second is not None else ():
            assert second is not None
            for group in second.groups:
                name = f"lab {second.lab_seed}, {group.name}"
                found += self._sweeps("second base", name, group.skills, group.methods, second.lab_seed, seed)
        return found

    def interference(self) -> list[Planned]:
        """Experiment 2: random sets of experts, and sets with the poisoned expert among them.

        Returns:
            The cells, those of one problem together.
        """
        config, lab = self.config.interference, self.labs[self.config.lab_seed]
        labels = list(chosen_sweeps(config.methods, TWO_STAGE_SWEEPS))
        families = config.families or lab.families
        found: list[Planned] = []
        for part, base, subsets in (
            ("experts", "unaligned", random_subsets(families, config.sizes, config.subsets, config.seeds)),
            ("poisoned", "aligned", poisoned_subsets(families, config.poisoned_sizes, config.subsets, config.seeds)),
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
        for seed in config.seeds:
            found += self._sweeps("methods", group.name, group.skills, config.comparison.methods, config.lab_seed, seed)
        for seed in config.comparison.ablation.seeds:
            found += self._ablation(group.skills, seed)
        problem = self._problem(group.skills, config.seeds[0])
        for label, swept in chosen_sweeps(config.comparison.methods, METHOD_SWEEPS).items():
            for repeat in range(config.comparison.cost_repeats):
                parameters = {"problem": problem, "swept": _plain(swept), "repeat": repeat}
                cell = self._cell("cost", f"cost of {label}, {repeat + 1}", parameters, swept.method)
                found.append(Planned(cell, "cost", group.name, label, repeat))
        return found

    def _problem(self, skills: Sequence[str], seed: int, **otherwise: Any) -> dict[str, Any]:
        calibration = self.config.calibration
        problem: dict[str, Any] = {
            "lab_seed": self.config.lab_seed, "base": "unaligned", "skills": list(skills), "safety": True,
            "adapter_seed": seed, "harm": calibration.harm, "benign": calibration.benign, "skill_share": 0.5,
            "seed": seed,
        }  # fmt: skip
        return problem | otherwise

    def _sweeps(
        self, part: str, group: str, skills: Sequence[str], methods: Sequence[str], lab_seed: int, seed: int
    ) -> list[Planned]:
        problem, prompts = self._problem(skills, seed, lab_seed=lab_seed), self.config.prompts
        dev, test = _safety_prompts(prompts.dev), _all_prompts(skills, prompts.test)
        models: dict[str, list[str]] = {"base": [], "skills alone": list(skills), "safety alone": ["safety"]}
        models |= {f"expert {skill}": [skill] for skill in skills}
        found = [self._alone(part, group, problem, models, dev, test, seed)]
        for label, swept in chosen_sweeps(methods, METHOD_SWEEPS).items():
            cell = self._sweep(f"{label}, {group}, seed {seed}", problem, swept, dev, test)
            found.append(Planned(cell, part, group, label, seed))
        return found

    def _drift(self, group: str, skills: Sequence[str], methods: Sequence[str], seed: int) -> list[Planned]:
        problem, prompts = self._problem(skills, seed, base="aligned", safety=False), self.config.prompts
        tasks = {f"task:{skill}": prompts.dev for skill in skills}
        dev, test = _safety_prompts(prompts.dev) | tasks, _all_prompts(skills, prompts.test)
        models: dict[str, list[str]] = {"base": [], "skills alone": list(skills)}
        models |= {f"expert {skill}": [skill] for skill in skills}
        found = [self._alone("drift", group, problem, models, dev, test, seed)]
        for label, swept in chosen_sweeps(methods, DRIFT_SWEEPS).items():
            cell = self._sweep(f"drift of {label}, {group}, seed {seed}", problem, swept, dev, test)
            found.append(Planned(cell, "drift", group, label, seed))
        return found

    def _ablation(self, skills: Sequence[str], seed: int) -> Iterator[Planned]:
        config = self.config.comparison.ablation
        dev, test = _safety_prompts(config.prompts.dev), _all_prompts(skills, config.prompts.test)
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
            subset.skills, subset.adapter_seed, base=base, safety=base == "unaligned",
            benign=2 * n * config.samples_per_skill,
        )  # fmt: skip
        group = f"{n} experts"
        families = [name for name in subset.skills if name != "poisoned"]
        models: dict[str, list[str]] = {"base": []} | {f"expert {name}": [name] for name in families}
        own = ["reverse"] if "poisoned" in subset.skills else []
        test = _all_prompts([*families, *own], config.prompts.test)
        yield self._alone(part, group, problem, models, {}, test, subset.number)
        for label in labels:
            staged = asdict(TWO_STAGE_SWEEPS[label])
            staged.pop("label")
            parameters = {
                "problem": problem, "staged": staged, "dev": config.prompts.dev, "test": config.prompts.test,
                "threshold": 0.9, "with_safety": base == "unaligned" or staged["method"] == "sst",
            }  # fmt: skip
            title = f"{label}, {group}, {part} {subset.number}"
            yield Planned(self._cell("interference", title, parameters, staged["method"]), part, group, label,
                          subset.number)  # fmt: skip

    def _alone(
        self, part: str, group: str, problem: Mapping[str, Any], models: Mapping[str, Sequence[str]],
        dev: Mapping[str, int], test: Mapping[str, int], seed: int,
    ) -> Planned:  # fmt: skip
        # All that an expert stands for is how well its own task can be done.
        own = {
            model: [f"task:{name}" for name in names] for model, names in models.items() if model.startswith("expert ")
        }
        parameters = {"problem": problem, "models": models, "dev": dev, "test": test, "own": own}
        return Planned(
            self._cell("alone", f"single models, {group}, {part} {seed}", parameters), part, group, "alone", seed
        )

    def _sweep(
        self, title: str, problem: Mapping[str, Any], swept: MethodSweep,
        dev: Mapping[str, int], test: Mapping[str, int], quotients: bool = False,
    ) -> Cell:  # fmt: skip
        parameters = {"problem": problem, "swept": _plain(swept), "dev": dev, "test": test,
                      "quotients": quotients}  # fmt: skip
        return self._cell("sweep", title, parameters, swept.method)

    def _cell(self, kind: str, title: str, parameters: Mapping[str, Any], method: str | None = None) -> Cell:
        problem = parameters["problem"]
        lab = self.labs[problem["lab_seed"]]
        named = {name for names in parameters.get("models", {}).values() for name in names} - {"safety"}
        depends: dict[str, Any] = {
            "version": __version__,
            "torch": versions()["torch"],
            "recipe": lab.recipe.digest(),
            "artefacts": artefacts(lab, problem["base"], {*problem["skills"], *named}, problem["safety"],
                                   problem["adapter_seed"]),
        }  # fmt: skip
        if method is not None:
            options = dict(parameters.get("swept", parameters.get("staged", {})).get("options", {}))
            depends["code"] = code_digest(*method_rooms(method))
            depends["options"] = parse_options(get_method(method), options).model_dump(mode="json")
        else:
            depends["code"] = code_digest()
        return Cell(kind, title, parameters, depends)


def artefacts(lab: Lab, base: str, names: set[str], safety: bool, seed: int) -> dict[str, str]:
    """Digests of the weights that a problem is made of; ``missing`` for those that are still to be trained.

    Args:
        lab: where they lie.
        base: whose adapters.
        names: skill adapters.
        safety: whether the safety adapter belongs to it.
        seed: of the adapters.

    Returns:
        Name → digest.
    """
    found = {}
    for name in BASES if base == "aligned" else (base,):
        folder = lab.find_base(name)
        found[f"base {name}"] = "missing" if folder is None else file_digest(folder / "model.safetensors")
    for name in sorted({*names, *(["safety"] if safety else [])}):
        folder = lab.find_adapter(name, base=base, seed=seed)
        found[name] = "missing" if folder is None else file_digest(folder / "adapter_model.safetensors")
    return found


def adapter_cells(planned: Sequence[Planned], labs: Mapping[int, Lab]) -> list[Cell]:
    """What is to be trained before cells can be measured: bases first, then adapters, each once.

    Args:
        planned: the cells.
        labs: lab seed → lab.

    Returns:
        Cells of kind ``adapter`` for what is missing.
    """
    bases: dict[str, Cell] = {}
    adapters: dict[str, Cell] = {}
    for entry in planned:
        problem = entry.cell.parameters["problem"]
        seed, base = problem["lab_seed"], problem["base"]
        lab = labs[seed]
        for name in BASES if base == "aligned" else (base,):
            if lab.find_base(name) is None:
                cell = _training(seed, None, name, 0, f"base {name}, lab {seed}")
                bases.setdefault(cell.key, cell)
        for name in (*problem["skills"], *(["safety"] if problem["safety"] else [])):
            if lab.find_adapter(name, base=base, seed=problem["adapter_seed"]) is None:
                cell = _training(seed, name, base, problem["adapter_seed"],
                                 f"adapter {name} on {base}, seed {problem['adapter_seed']}, lab {seed}")  # fmt: skip
                adapters.setdefault(cell.key, cell)
    return [*bases.values(), *adapters.values()]


def training_stages(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of training in at most two stages: what waits for nothing, then adapters of bases trained in the first.

    A base keeps one process busy for minutes; adapters of other bases are trained beside it.

    Args:
        cells: of :func:`adapter_cells`.

    Returns:
        Stages without empty ones, bases first in theirs.
    """

    def base_of(cell: Cell) -> tuple[int, str]:
        return cell.parameters["lab_seed"], cell.parameters["base"]

    untrained = {base_of(cell) for cell in cells if cell.parameters["name"] is None}
    waiting = [cell for cell in cells if cell.parameters["name"] is not None and base_of(cell) in untrained]
    ready = [cell for cell in cells if cell not in waiting]
    return [stage for stage in (ready, waiting) if stage]


def _training(lab_seed: int, name: str | None, base: str, adapter_seed: int, title: str) -> Cell:
    return Cell("adapter", title, {"lab_seed": lab_seed, "name": name, "base": base, "adapter_seed": adapter_seed})


def _plain(swept: MethodSweep) -> dict[str, Any]:
    fields = asdict(swept)
    fields.pop("label")
    return fields


def _safety_prompts(n: int) -> dict[str, int]:
    return dict.fromkeys(("harmful", "jailbreak"), n)


def _all_prompts(skills: Sequence[str], n: int) -> dict[str, int]:
    return dict.fromkeys([*_ASKED, *(f"task:{skill}" for skill in skills)], n)
