"""Who takes part in a comparison: a method, its settings, and the strengths it is swept over.

Every contestant gets the same number of strengths, spread over its own useful range; which of them is used is
decided on dev prompts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import MergeError
from ..merging.engine import module_generator
from ..registry import Layer, MergeProblem, get_method, parse_options
from ..sst import SSTMerge, SSTOptions
from ..sst.evidence import merged_cores, role_patches

__all__ = ["CONTESTANTS", "Contestant"]

Cores = dict[str, Tensor]


@dataclass(frozen=True)
class Contestant:
    """A method with settings and its sweep.

    Attributes:
        label: as printed.
        method: registered name.
        values: of the knob, from weak to strong safety.
        options: other settings.
        knob: the option that is swept; the method's own by default.
    """

    label: str
    method: str
    values: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    knob: str | None = None

    def path(self, problem: MergeProblem) -> Callable[[float], Cores]:
        """Merged cores as a function of the knob; what does not depend on the knob is computed once.

        Args:
            problem: the merge.

        Returns:
            knob value → core per module.

        Raises:
            MergeError: the method has a preparation of its own that depends on its options.
        """
        method = get_method(self.method)
        knob = self.knob or method.knob
        if method.name == "sst":
            merge = SSTMerge(problem, SSTOptions.model_validate({**self.options, knob: self.values[0]}))
            if knob == "tax_budget":
                return _refined_path(merge)
            return lambda value: merge.merged(mu=value)
        if method.prepare is not None:
            raise MergeError(
                f"method {method.name!r} prepares the whole model for one setting; it has no cheap sweep yet"
            )
        patches = role_patches(problem).each
        weights = tuple(a.weight for a in problem.adapters)
        roles = tuple(a.role for a in problem.adapters)

        def merged(value: float) -> Cores:
            options = parse_options(method, {**self.options, knob: value})
            cores = {}
            for module in problem.spaces:
                generator = module_generator(problem.seed, module)
                own = tuple(patches[a.name][module] for a in problem.adapters)
                cores[module] = method.merge_layer(Layer(module, own, weights, roles, generator), options, None)
            return cores

        return merged


def _refined_path(merge: SSTMerge) -> Callable[[float], Cores]:
    """Refined merges under different budgets, all from the filtered patch that the middle budget chooses."""
    choice = merge.choose(_BUDGETS[len(_BUDGETS) // 2])
    start = merge.change(mu=choice.best.mu, strength=choice.best.strength)
    return lambda budget: merged_cores(merge.utility, merge.refined(start, budget))


_MU = (3.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.005)
_SST: Mapping[str, Mapping[str, Any]] = {
    "SST-Merge": {},
    "SST-Merge, interpolate": {"combine": "interpolate"},
    **{f"SST-Merge, {s}": {"fisher": {"structure": s}} for s in ("diagonal", "kronecker", "lowrank")},
    **{f"SST-Merge, {e} labels": {"fisher": {"estimator": e}} for e in ("empirical", "sampled")},
    **{f"SST-Merge, {point} point": {"fisher": {"point": point}} for point in ("merged", "own", "base")},
}
_BUDGETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)

CONTESTANTS: Mapping[str, Contestant] = {
    c.label: c
    for c in (
        Contestant("Task Arithmetic", "task_arithmetic", (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)),
        Contestant(
            "Task Arithmetic, interpolated",
            "task_arithmetic",
            (0.2, 0.35, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9),
            {"combine": "interpolate"},
        ),
        Contestant("Random subspace", "random_subspace", (0.8, 1.4, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0, 4.8)),
        *(Contestant(label, "sst", _MU, options) for label, options in _SST.items()),
        Contestant("SST-Merge, refined", "sst", _BUDGETS, {"refine": 60}, knob="tax_budget"),
    )
}
