"""A planned merge carried out: in memory, or straight to disk."""

import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from .. import processes
from ..fim_calculator import parts_beside, remove_parts
from ..lora_utils import Adapter, ExpectedFile, Ranks
from ..methods import MergeProblem, Prepared
from ..progress import Progress
from ..texts import counted
from ..threads import one_thread
from .calibration_record import calibration_records
from .engine import MergedModule, merged_modules
from .inputs import NO_INPUTS, MergeInputs
from .plan import MergePlan
from .report import AdapterRecord, MergeReport, ModuleFigures, package_versions
from .result import FileText, MergeResult, write_merge
from .workers import Workers, merged_by_workers, number_of_workers

if TYPE_CHECKING:
    from ..core_space import CoreSpace

__all__ = ["merge_in_memory", "merge_problem", "merge_to_folder"]

_LOW_ENERGY = 0.99


def merge_in_memory(
    plan: MergePlan, inputs: MergeInputs = NO_INPUTS, *, progress: Progress | None = None, workers: Workers = "auto"
) -> MergeResult:
    """Carry a plan out.

    Args:
        plan: a checked merge.
        inputs: model and data.
        progress: called with (stage, done, total).
        workers: as for :func:`merge_to_folder`.

    Returns:
        The merged adapter in memory, with its report.
    """
    run = _Run(plan, inputs, progress, workers=number_of_workers(plan, workers))
    run.check()
    factors = {merged.name: merged.factors for merged in run.modules()}
    adapter = Adapter.from_factors(
        factors,
        name="merged",
        base_model=plan.base_model,
        task_type=plan.task_type,
        whole=plan.carried.tensors,
        modules_to_save=plan.carried.modules_to_save,
    )
    return MergeResult(adapter, run.report(), dict(run.timings), plan.input_folders)


def merge_to_folder(
    plan: MergePlan,
    path: str | Path,
    inputs: MergeInputs = NO_INPUTS,
    *,
    dtype: torch.dtype | None = None,
    ranks: Ranks = "uniform",
    force: bool = False,
    extra_files: Mapping[str, FileText] = MappingProxyType({}),
    copies: Mapping[str, Path] = MappingProxyType({}),
    progress: Progress | None = None,
    values: tuple[str, ...] | None = None,
    workers: Workers = "auto",
) -> MergeReport:
    """Carry a plan out straight to disk: memory holds one module, however large the adapters are.

    Inside :func:`~sst_merge.processes.joined` every process calls it; the first one writes, all get the report.

    Args:
        plan: a checked merge.
        path: folder to make; nothing is left of it after an error.
        inputs: model and data.
        dtype: type to write; that of the computation by default.
        ranks: ``uniform`` or ``pattern``, where the modules' ranks differ, as for
            :func:`~sst_merge.lora_utils.write_adapter`.
        force: replace an existing folder.
        extra_files: file name → text, or a function of the finished report.
        copies: relative name → file that is copied there as it is, such as a tokenizer's.
        progress: called with (stage, done, total).
        values: what :meth:`~.plan.MergePlan.read_values` returned, where it was called before.
        workers: threads that merge modules, or ``auto``; the result has the same bytes
            (:func:`~.workers.number_of_workers`).

    Returns:
        The report as written to ``merge_report.json``.
    """
    expected = ExpectedFile(
        ((module.name, module.expected(plan.settings.compute_dtype)) for module in plan.modules),
        dtype=dtype,
        ranks=ranks,
    )
    keep = parts_beside(Path(path))
    run = _Run(plan, inputs, progress, values, keep=keep, workers=number_of_workers(plan, workers), expected=expected)
    run.check()

    def write() -> MergeReport:
        with closing(run.modules()) as modules:
            return write_merge(
                path,
                ((merged.name, merged.factors) for merged in modules),
                run.report,
                base_model=plan.base_model,
                task_type=plan.task_type,
                whole=plan.carried.tensors,
                modules_to_save=plan.carried.modules_to_save,
                dtype=dtype,
                ranks=ranks,
                force=force,
                extra_files=extra_files,
                copies=copies,
                inputs=plan.input_folders,
                expected=expected,
            )

    if processes.count() == 1:
        return write()
    # One that is late must not find the output of this very run.
    processes.meet("the merge begins")
    # All prepare together; the first one merges the modules meanwhile, and writes.
    report = write() if processes.is_first() else None
    if report is None:
        run.prepare()
    report = processes.once("the merge is written", lambda: report)
    assert report is not None
    remove_parts(run.keep)
    return report


def merge_problem(
    plan: MergePlan, inputs: MergeInputs, *, keep: Path | None = None, progress: Progress | None = None
) -> MergeProblem:
    """The whole merge as a method's preparation sees it.

    Args:
        plan: a checked merge.
        inputs: model and data.
        keep: where several processes keep their parts of statistics.
        progress: called with (stage, done, total).

    Returns:
        Adapters in their core spaces, in the plan's order of modules, with model and data.
    """
    from ..fim_calculator import build_spaces

    # Other processors may round the bases otherwise, and what is added up must mean the same.
    built = processes.once(
        "core spaces",
        lambda: build_spaces(plan.merging_order, dtype=plan.settings.compute_dtype, device=plan.settings.device),
    )
    return MergeProblem(
        adapters=plan.merging_order,
        spaces={module.name: built[module.name] for module in plan.modules},
        model=inputs.model,
        harm=inputs.harm,
        benign=inputs.benign,
        adapter_benign=inputs.adapter_benign,
        seed=plan.settings.seed,
        progress=progress,
        base_weights=inputs.base_weights,
        aligned_weights=inputs.aligned_weights,
        refuses=inputs.refuses,
        keep=keep,
    )


@dataclass
class _Run:
    """One merge while it is carried out.

    Attributes:
        plan: what was checked.
        inputs: model and data.
        progress: called with (stage, done, total), or None.
        prepared: what the method did before the layers.
        found: what reading the adapters' values showed; None where they are still to be read.
        records: the adapters' provenance.
        figures: module name → figures, as far as merged.
        drowned: adapter → in how many modules nothing is left of it beside much larger ones.
        timings: seconds by stage, as far as done.
        keep: where several processes keep their parts of statistics.
        workers: threads that merge modules.
        expected: the file, to which they may write.
    """

    plan: MergePlan
    inputs: MergeInputs
    progress: Progress | None
    found: tuple[str, ...] | None = None
    prepared: Prepared = field(default_factory=Prepared)
    records: tuple[AdapterRecord, ...] = ()
    figures: dict[str, ModuleFigures] = field(default_factory=dict)
    drowned: Counter[str] = field(default_factory=Counter)
    timings: dict[str, float] = field(default_factory=dict)
    keep: Path | None = None
    workers: int = 1
    expected: ExpectedFile | None = None

    def check(self) -> None:
        """Refuse missing data, then read every value of every adapter once, where that was not done before."""
        began = time.perf_counter()
        self.plan.check_inputs(self.inputs)
        if self.found is None:
            self.found = self.plan.read_values(progress=self.progress, threads=self.workers)
        with ThreadPoolExecutor(self.workers) as pool:
            self.records = tuple(pool.map(AdapterRecord.of, self.plan.adapters))
        self.timings["check"] = time.perf_counter() - began

    def modules(self) -> Generator[MergedModule]:
        """Prepare the method, then merge module by module.

        Yields:
            Merged modules in the plan's order.
        """
        spaces = self.prepare()
        began = time.perf_counter()
        # What is done to a merged module, such as writing it, takes small steps, too.
        with one_thread():
            for merged in self._merged(spaces):
                self.figures[merged.name] = merged.figures
                self.drowned.update(merged.drowned)
                yield merged
        self.timings["merge"] = time.perf_counter() - began

    def prepare(self) -> "Mapping[str, CoreSpace] | None":
        """Let the method look at the whole merge; returns the core spaces to merge in, if it did."""
        began = time.perf_counter()
        # A model's own passes are many times slower on one thread; without one, preparing is algebra alone.
        with one_thread() if self.inputs.model is None else nullcontext():
            spaces = self._prepare()
        self.timings["prepare"] = time.perf_counter() - began
        return spaces

    def _merged(self, spaces: "Mapping[str, CoreSpace] | None") -> Iterator[MergedModule]:
        if self.workers > 1:
            return merged_by_workers(self.plan, self.workers, into=self.expected, progress=self.progress)
        return merged_modules(self.plan, state=self.prepared.state, spaces=spaces, progress=self.progress)

    def report(self) -> MergeReport:
        """Provenance and figures of the finished merge."""
        plan, settings = self.plan, self.plan.settings
        return MergeReport(
            method=plan.method.name,
            paper=plan.method.paper,
            options=plan.options.model_dump(mode="json"),
            seed=settings.seed,
            rank=settings.rank,
            energy=settings.energy,
            compute_dtype=str(settings.compute_dtype).removeprefix("torch."),
            base_model=plan.base_model,
            adapters=self.records,
            modules=dict(self.figures),
            method_report=self.prepared.report,
            warnings=(
                *plan.warnings,
                *(self.found or ()),
                *self.inputs.notes,
                *self.prepared.warnings,
                *_warnings(self.figures, self.drowned),
            ),
            versions=package_versions(),
            calibration=calibration_records(self.inputs),
            provenance=plan.provenance,
            whole_weights={
                name: {"adapter": plan.carried.origin[name], "shape": list(weight.shape)}
                for name, weight in plan.carried.tensors.items()
            },
        )

    def _prepare(self) -> "Mapping[str, CoreSpace] | None":
        prepare = self.plan.method.prepare
        if prepare is None:
            return None
        problem = merge_problem(self.plan, self.inputs, keep=self.keep, progress=self.progress)
        self.prepared = prepare(problem, self.plan.options)
        return problem.spaces if self.prepared.spaces is None else self.prepared.spaces


def _warnings(figures: Mapping[str, ModuleFigures], drowned: Mapping[str, int]) -> list[str]:
    found = [
        f"adapter {name!r} is lost in {count} of {counted(len(figures), 'module')}: its update there is so much "
        f"smaller than another adapter's that nothing of it is left after rounding; give it a larger weight, or leave "
        f"it out"
        for name, count in drowned.items()
    ]
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
