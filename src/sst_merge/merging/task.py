"""One merge from checked inputs to its report: what ``merge`` and ``merge_to_folder`` have in common."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import MergeError
from ..lora_utils import Adapter, BaseModelIndex, BaseWeights
from ..methods import MergeProblem, Prepared
from .calibration_record import calibration_records
from .engine import MergedModule, Progress, merged_modules
from .plan import MergePlan, plan_merge
from .report import AdapterRecord, MergeReport, ModuleFigures, package_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..core_space import CoreSpace
    from ..data_loader.batch import Batch

__all__ = ["MergeInputs", "MergeTask", "merge_problem"]

_LOW_ENERGY = 0.99


@dataclass(frozen=True, kw_only=True)
class MergeInputs:
    """What a method may look at beside adapters.

    Attributes:
        model: base model, or None.
        harm: batches of harmful prompts with refusals.
        benign: batches of benign prompts with good answers.
        adapter_benign: benign batches of single adapters' own data, by adapter name.
        base_weights: weights of the unaligned base, or None.
        aligned_weights: weights of the aligned base, or None.
    """

    model: "PreTrainedModel | None"
    harm: "Sequence[Batch]"
    benign: "Sequence[Batch]"
    adapter_benign: "Mapping[str, Sequence[Batch]]"
    base_weights: BaseWeights | None = None
    aligned_weights: BaseWeights | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what is there, as :func:`~.plan.plan_merge` takes them."""
        present = {
            "model": self.model is not None,
            "harm": len(self.harm) > 0,
            "benign": len(self.benign) > 0,
            "base_weights": self.base_weights is not None,
            "aligned_weights": self.aligned_weights is not None,
        }
        return tuple(name for name, there in present.items() if there)


@dataclass(kw_only=True)
class MergeTask:
    """A merge that may begin.

    Attributes:
        plan: what was checked.
        inputs: model and data.
        seed: of every random choice.
        compute_dtype: type of the algebra.
        device: where it runs.
        progress: called with (stage, done, total), or None.
        records: the adapters' provenance.
        prepared: what the method did before the layers.
        figures: module name → figures, as far as merged.
        timings: seconds by stage, as far as done.
    """

    plan: MergePlan
    inputs: MergeInputs
    seed: int
    compute_dtype: torch.dtype
    device: torch.device | str
    progress: Progress | None
    records: tuple[AdapterRecord, ...]
    prepared: Prepared = field(default_factory=Prepared)
    figures: dict[str, ModuleFigures] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        adapters: Sequence[Adapter],
        method: str,
        options: Mapping[str, object],
        inputs: MergeInputs,
        *,
        base: BaseModelIndex | None,
        seed: int,
        rank: int | None,
        energy: float | None,
        compute_dtype: torch.dtype,
        device: torch.device | str,
        assume_same_base: bool,
        progress: Progress | None,
    ) -> "MergeTask":
        """Refuse what can be refused: headers first, then every value of every adapter once.

        Args:
            adapters: what to merge.
            method: name of the method.
            options: its options, plain values.
            inputs: model and data.
            base: layers of the base model; those of the model by default.
            seed: of every random choice.
            rank: largest rank of the output.
            energy: share of ‖ΔW‖² to keep.
            compute_dtype: float32 or float64.
            device: where the algebra runs.
            assume_same_base: merge adapters that name different bases.
            progress: called with (stage, done, total).

        Returns:
            The task.

        Raises:
            MergeError: the merge cannot be carried out as asked.
        """
        began = time.perf_counter()
        if compute_dtype not in {torch.float32, torch.float64}:
            raise MergeError(
                f"compute_dtype = {compute_dtype}: factorisations need torch.float32 or torch.float64; the type of the "
                f"written file is set apart (dtype)"
            )
        if torch.device(device).type == "mps":
            raise MergeError(f"device = {device}: core matrices need float64, which it does not have; take cpu or cuda")
        if base is None and inputs.model is not None:
            base = BaseModelIndex.of(inputs.model, name=inputs.model.name_or_path or "model")
        plan = plan_merge(
            adapters,
            method,
            options=options,
            given=inputs.given,
            base=base,
            rank=rank,
            energy=energy,
            assume_same_base=assume_same_base,
        )
        for done, adapter in enumerate(plan.adapters, start=1):
            adapter.check_values()
            if progress is not None:
                progress("check", done, len(plan.adapters))
        records = tuple(AdapterRecord.of(adapter) for adapter in plan.adapters)
        task = cls(
            plan=plan,
            inputs=inputs,
            seed=seed,
            compute_dtype=compute_dtype,
            device=device,
            progress=progress,
            records=records,
        )
        task.timings["check"] = time.perf_counter() - began
        return task

    @property
    def input_folders(self) -> tuple[Path, ...]:
        """Folders that are read."""
        return tuple(adapter.path for adapter in self.plan.adapters if adapter.path is not None)

    def modules(self) -> Iterator[MergedModule]:
        """Prepare the method, then merge module by module.

        Yields:
            Merged modules in the plan's order.
        """
        began = time.perf_counter()
        spaces = self._prepare()
        self.timings["prepare"] = time.perf_counter() - began
        began = time.perf_counter()
        for merged in merged_modules(
            self.plan,
            seed=self.seed,
            state=self.prepared.state,
            spaces=spaces,
            compute_dtype=self.compute_dtype,
            device=self.device,
            progress=self.progress,
        ):
            self.figures[merged.name] = merged.figures
            yield merged
        self.timings["merge"] = time.perf_counter() - began

    def report(self) -> MergeReport:
        """Provenance and figures of the finished merge."""
        plan = self.plan
        return MergeReport(
            method=plan.method.name,
            paper=plan.method.paper,
            options=plan.options.model_dump(mode="json"),
            seed=self.seed,
            rank=plan.rank,
            energy=plan.energy,
            compute_dtype=str(self.compute_dtype).removeprefix("torch."),
            base_model=plan.base_model,
            adapters=self.records,
            modules=dict(self.figures),
            method_report=self.prepared.report,
            warnings=(*plan.warnings, *self.prepared.warnings, *_warnings(self.figures)),
            versions=package_versions(),
            calibration=calibration_records(self.inputs.harm, self.inputs.benign, self.inputs.adapter_benign),
        )

    def _prepare(self) -> "dict[str, CoreSpace] | None":
        """Let the method look at the whole merge; returns the core spaces to merge in, if it did."""
        prepare = self.plan.method.prepare
        if prepare is None:
            return None
        problem = merge_problem(
            self.plan,
            self.inputs,
            seed=self.seed,
            compute_dtype=self.compute_dtype,
            device=self.device,
            progress=self.progress,
        )
        self.prepared = prepare(problem, self.plan.options)
        return dict(problem.spaces if self.prepared.spaces is None else self.prepared.spaces)


def merge_problem(
    plan: MergePlan,
    inputs: MergeInputs,
    *,
    seed: int,
    compute_dtype: torch.dtype,
    device: torch.device | str,
    progress: Progress | None,
) -> MergeProblem:
    """The whole merge as a method's preparation sees it.

    Args:
        plan: a checked merge.
        inputs: model and data.
        seed: of every random choice.
        compute_dtype: type of the core spaces' bases.
        device: where they are.
        progress: called with (stage, done, total).

    Returns:
        Adapters in their core spaces, in the plan's order of modules, with model and data.
    """
    from ..fim_calculator import build_spaces

    built = build_spaces(plan.adapters, dtype=compute_dtype, device=device)
    return MergeProblem(
        adapters=plan.adapters,
        spaces={module.name: built[module.name] for module in plan.modules},
        model=inputs.model,
        harm=inputs.harm,
        benign=inputs.benign,
        adapter_benign=inputs.adapter_benign,
        seed=seed,
        progress=progress,
        base_weights=inputs.base_weights,
        aligned_weights=inputs.aligned_weights,
    )


def _warnings(figures: Mapping[str, ModuleFigures]) -> list[str]:
    found = []
    if all(figure.norm == 0 for figure in figures.values()):
        found.append("the merged update is zero everywhere: the output equals the base model")
    cut = {module: figure.kept_energy for module, figure in figures.items() if figure.kept_energy < _LOW_ENERGY}
    if cut:
        worst = min(cut, key=lambda module: cut[module])
        found.append(
            f"the cut to a smaller rank lost more than 1 % of ‖ΔW‖² in {len(cut)} of {len(figures)} modules; most in "
            f"{worst!r}, which keeps {cut[worst]:.3f}. Give a larger rank, or none for the exact result"
        )
    return found
