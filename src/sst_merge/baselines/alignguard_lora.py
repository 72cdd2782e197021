"""AlignGuard-LoRA as a merge: a re-implementation after arXiv:2508.02079, whose public code lacks the method.

With F the Fisher of the safety data in the core, and P_A the projector onto its top-m eigenvectors (one *single*
Fisher, unlike SST-Merge's quotient of two):

    project:  M = Σᵢ wᵢ (Mᵢ − t P_A Mᵢ) + s Σ_safety w M
    penalty:  Mᵢ ← argmin_M ‖M − Mᵢ‖² + t (λ_A ⟨P_A M, F P_A M⟩ + λ_T ⟨P_T M, H P_T M⟩ + λ_NC ⟨P_A M, η∘c∘P_A M⟩)

with P_T = I − P_A, H the Fisher of the benign data, both Fishers scaled to a mean diagonal of 1,
η = 1 + β σ(|Mᵢ| − τ) and c = |P_T Mᵢ| / max |P_T Mᵢ|: the larger the task part, the more an entry costs.

Deviations. The paper regularises *training*; here finished updates are moved, so the task loss is replaced by the
distance to the update. Its Riemannian collision term Σ η |ΔW_A||ΔW_T| is not a quadratic form; it is replaced by a
quadratic one with the task part held at its start. Its geodesic term is 0 for an orthogonal projector and left out.
The entries of η and c are those of the core in its principal directions. Defaults λ_A = 0.25, λ_T = 0.5, λ_NC = 0.1,
β = 4, τ = 0.01.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..errors import MergeError
from ..fim_calculator import LayerFisher, auto_structure, compute_fim, point_cores
from ..gevp_solver import solve_linear
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, Reads, merge_method
from ..methods.parts.own_data import required_model, ticker
from ..methods.parts.top_directions import TopDirections
from ..methods.sweeps import SUMS, MethodSweep

__all__ = ["alignguard_lora"]

_REMOVED = (0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 1.0)
"""t of ``project`` on an aligned base."""


class AlignGuardOptions(MethodOptions):
    """Options of AlignGuard-LoRA.

    Attributes:
        strength: t, share of the alignment part that is removed, or factor of all penalties; 0 is Task Arithmetic.
        safety_strength: s, multiplies the safety adapters that are added.
        mode: remove the alignment part (``project``), or solve the penalised least squares (``penalty``).
        m: number of eigenvectors per module; overrides ``share``.
        share: take the fewest eigenvectors per module that hold this share of the Fisher's trace.
        structure: which correlations the Fishers keep; ``auto`` takes ``block`` while it fits, else ``kronecker``.
        point: where the safety Fisher is taken: at the safety adapters' sum (``own``; the base itself where there is
            none), at the sum of all adapters (``merged``) or at the base.
        aligned_base: no safety adapter is given because the base itself is aligned.
        lambda_a: λ_A of ``penalty``: price of the alignment part.
        lambda_t: λ_T of ``penalty``: price of what moves benign answers.
        lambda_nc: λ_NC of ``penalty``: price of entries that alignment part and task part share.
        beta: β of ``penalty``: how much more large entries cost than small ones.
        tau: τ of ``penalty``: from which size on an entry counts as large.
    """

    strength: float = Field(default=1.0, ge=0.0)
    safety_strength: float = Field(default=1.0, ge=0.0)
    mode: Literal["project", "penalty"] = "project"
    m: int | None = Field(default=None, ge=0)
    share: float = Field(default=0.5, ge=0.0, le=1.0)
    structure: Literal["auto", "kronecker", "block"] = "auto"
    point: Literal["own", "merged", "base"] = "own"
    aligned_base: bool = False
    lambda_a: float = Field(default=0.25, ge=0.0)
    lambda_t: float = Field(default=0.5, ge=0.0)
    lambda_nc: float = Field(default=0.1, ge=0.0)
    beta: float = Field(default=4.0, ge=0.0)
    tau: float = Field(default=0.01, ge=0.0)


@dataclass(frozen=True)
class _Module:
    """What one module's merge needs: P_A, and F and H for the penalty."""

    directions: TopDirections
    safety: LayerFisher
    benign: LayerFisher | None


def _prepare(problem: MergeProblem, options: AlignGuardOptions) -> Prepared:
    model = required_model(problem, "alignguard_lora")
    safety = [a for a in problem.adapters if a.role == "safety"]
    if not safety and not options.aligned_base:
        raise MergeError(
            "method 'alignguard_lora' found no adapter of role safety; give one, or set aligned_base: true where the "
            "base itself is aligned and the tasks must not disturb its safety"
        )
    structure = auto_structure(problem.spaces) if options.structure == "auto" else options.structure
    everything = point_cores(problem.adapters, problem.spaces)
    points = {"own": point_cores(safety, problem.spaces), "merged": everything, "base": {}}
    harm = compute_fim(
        model,
        problem.spaces,
        problem.harm,
        point=points[options.point],
        structure=structure,
        estimator="empirical",
        keep=problem.keep,
        progress=ticker(problem, "Fisher of harmful prompts", problem.harm),
    )
    benign = None
    if options.mode == "penalty":
        benign = compute_fim(
            model,
            problem.spaces,
            problem.benign,
            point=everything,
            structure=structure,
            estimator="empirical",
            keep=problem.keep,
            progress=ticker(problem, "Fisher of benign prompts", problem.benign),
        )
    state = {
        module: _Module(
            TopDirections.of(layer, m=options.m, share=options.share),
            layer,
            None if benign is None else benign.layers[module],
        )
        for module, layer in harm.layers.items()
    }
    counts = {m: found.directions.count for m, found in state.items()}
    return Prepared(state, {"structure": structure, "directions": counts, "trace": harm.trace()})


@dataclass(frozen=True)
class _Penalised:
    """I + t (λ_A P F P + λ_T Q H Q + λ_NC P (η c) P), symmetric positive definite, on cores."""

    module: _Module
    options: AlignGuardOptions
    start: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.start.shape[0], self.start.shape[1]

    @property
    def diagonal(self) -> Tensor:
        """Only a preconditioner: that of the identity."""
        return torch.ones_like(self.start)

    def matvec(self, core: Tensor) -> Tensor:
        options, project = self.options, self.module.directions.project
        aligned = project(core)
        penalty = options.lambda_a * project(_normalised(self.module.safety, aligned, self._means[0]))
        if self.module.benign is not None:
            bent = _normalised(self.module.benign, core - aligned, self._means[1])
            penalty = penalty + options.lambda_t * (bent - project(bent))
        penalty = penalty + options.lambda_nc * project(self._collision * aligned)
        return core + options.strength * penalty

    @cached_property
    def _means(self) -> tuple[float, ...]:
        """Mean diagonals of F and H."""
        fishers = (self.module.safety, self.module.benign)
        return tuple(0.0 if fisher is None else fisher.trace() / self.start.numel() for fisher in fishers)

    @cached_property
    def _collision(self) -> Tensor:
        """η ∘ c at the start."""
        task = (self.start - self.module.directions.project(self.start)).abs()
        largest = float(task.max())
        if largest == 0:
            return torch.zeros_like(task)
        eta = 1.0 + self.options.beta * torch.sigmoid(self.start.abs() - self.options.tau)
        return eta * task / largest


def _normalised(fisher: LayerFisher, core: Tensor, mean: float) -> Tensor:
    """F M with F, whose mean diagonal is given, at a mean diagonal of 1."""
    return fisher.matvec(core) / mean if mean > 0 else torch.zeros_like(core)


@merge_method(
    name="alignguard_lora",
    summary="task updates avoid the top directions of one safety Fisher (re-implementation)",
    paper="arXiv:2508.02079",
    options=AlignGuardOptions,
    needs=Needs(data=True, roles=frozenset({"utility"})),
    reads=Reads(of="harm", gradients=1),
    promises=Promises(exact=False),
    prepare=_prepare,
    sweeps=(
        MethodSweep("AlignGuard-LoRA", SUMS, knob="safety_strength", prepare_once=True),
        MethodSweep(
            "AlignGuard-LoRA, kronecker", SUMS, {"structure": "kronecker"}, "safety_strength", prepare_once=True
        ),
        MethodSweep("AlignGuard-LoRA, penalty", SUMS, {"mode": "penalty"}, "safety_strength", prepare_once=True),
        MethodSweep("AlignGuard-LoRA", _REMOVED, {"aligned_base": True}, prepare_once=True, base="aligned"),
        MethodSweep(
            "AlignGuard-LoRA, kronecker",
            _REMOVED,
            {"aligned_base": True, "structure": "kronecker"},
            prepare_once=True,
            base="aligned",
        ),
        MethodSweep(
            "AlignGuard-LoRA, penalty",
            (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
            {"aligned_base": True, "mode": "penalty"},
            prepare_once=True,
            base="aligned",
        ),
    ),
)
def alignguard_lora(layer: Layer, options: AlignGuardOptions, state: dict[str, _Module]) -> Tensor:
    """Every utility core without its alignment part, plus the safety cores."""
    module = state[layer.module]
    merged = options.safety_strength * layer.weighted_sum("safety")
    for patch, weight, role in zip(layer.patches, layer.weights, layer.roles, strict=True):
        if role != "utility":
            continue
        core = patch.double().cpu()
        if options.mode == "project":
            moved = core - options.strength * module.directions.project(core)
        else:
            moved = solve_linear(_Penalised(module, options, core), core)
        merged = merged + weight * moved.to(merged)
    return merged
