"""Core spaces that reach further on the input side than the adapters' own rows.

The best merge of several adapters on their own inputs, argmin Σ wᵢ ‖(ΔW − ΔW_i) X_i‖², has the rows

    R = (Σ wᵢ M_i VᵀĜᵢ)(Σ wᵢ Ĝᵢ)⁻¹        (RegMean, arXiv:2212.09849)

which the core space of the adapters cuts off. With those rows added U stays, so that the merge's rank is bounded as
before, and every ΔW_i stays exact.

Gᵢ is d_in × d_in. Where all modules' fit into few passes over the data they are collected; else one pass makes sketches
of them (:mod:`~sst_merge.methods.parts.input_sketches`): VᵀGᵢ is exact then, and the inverse is that of the sketches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..baselines.regmean import regmean
from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from ..lora_utils import Adapter
from ..methods import MergeProblem
from ..methods.parts.input_moments import budget_groups, module_groups
from ..methods.parts.input_sketches import InputSketch, input_sketches
from ..methods.parts.own_data import OwnData, own_data, ticker
from ..methods.parts.regression import OFF_DIAGONAL, RIDGE
from ..methods.parts.widening import widened
from .collect import required_model

__all__ = ["wide_inputs_bytes", "with_wide_inputs"]

_BASE = "the base, which is safe as it is"
_MEMORY_GIB, _PASSES = 2.0, 3
"""Memory of one pass, and how many of them second moments may take for each adapter; SmolLM2 takes 2, 7B about 70."""

_COLUMNS, _ROOT = 128, 512
"""Random columns of a sketch, and columns to which the sum of many adapters' sketches is cut."""


def with_wide_inputs(
    problem: MergeProblem, harm: Sequence[Batch], benign: Sequence[Batch], *, aligned_base: bool
) -> MergeProblem:
    """The same merge in spaces whose V also spans the rows of RegMean's merge of all adapters.

    Args:
        problem: adapters, spaces, model, and the adapters' own data.
        harm: harmful prompts that may be seen.
        benign: common benign prompts that may be seen, for adapters without data of their own.
        aligned_base: whether the base itself is the safe model: RegMean then merges it, too, with ΔW = 0.

    Returns:
        The problem with V (d_in, q') instead of (d_in, q), q' ≤ q + p; embeddings, and everything where only one
        adapter has a weight, stay as they are.

    Raises:
        DataError: there is no model.
        MergeError: the weights are all 0.
    """
    adapters = [*problem.adapters, *([_unchanged(problem.spaces)] if aligned_base else [])]
    # Nobody asks for these moments again, so none of them is stored.
    seen = replace(problem, adapters=adapters, harm=harm, benign=benign, cache=None)
    if len(list(module_groups(problem.spaces, _MEMORY_GIB, copies=3))) > _PASSES:
        return replace(problem, spaces={**problem.spaces, **_by_sketches(seen)})
    assert regmean.prepare is not None
    prepared = regmean.prepare(seen, regmean.options.model_validate({"memory_gib": _MEMORY_GIB}))
    return problem if prepared.spaces is None else replace(problem, spaces=prepared.spaces)


def wide_inputs_bytes(modules: Mapping[str, tuple[int, int, int]], adapters: int) -> int:
    """What :func:`with_wide_inputs` holds at most, beside the model and the spaces.

    Args:
        modules: name → d_out, d_in and the sum of the adapters' ranks; embeddings left out.
        adapters: that are merged, the base among them where it is the safe model.

    Returns:
        Bytes.
    """
    moments = {name: 24.0 * d_in**2 for name, (_, d_in, _) in modules.items()}
    if len(list(budget_groups(moments, _MEMORY_GIB))) <= _PASSES:
        return int(min(_MEMORY_GIB * 2**30, sum(moments.values())))
    numbers = 0
    for d_out, d_in, total in modules.values():
        # Ω and G Ω of the last adapter; two sums of (p, d) and the root of all adapters before it.
        columns = min(d_in, total + _COLUMNS)
        numbers += d_in * (2 * columns + 2 * min(d_out, total) + min(_ROOT, (adapters - 1) * columns))
    return 8 * numbers


def _unchanged(spaces: Mapping[str, CoreSpace]) -> Adapter:
    """ΔW = 0 as an adapter, which must name one module."""
    module, space = next(iter(spaces.items()))
    nothing, _ = space.lift(space.coordinates(None))
    return Adapter.from_factors({module: nothing}, name=_BASE, role="safety")


def _by_sketches(problem: MergeProblem) -> dict[str, CoreSpace]:
    model = required_model(problem)
    used = [own for own in own_data(problem, "sst")[0] if own.weight > 0]
    if len(used) < 2:
        return {}
    modules = [module for module, space in problem.spaces.items() if space.kind.reads_vectors]
    sums = {module: _Sums.of(problem.spaces[module]) for module in modules}
    generator = torch.Generator().manual_seed(problem.seed)
    for own in used:
        sketches = input_sketches(
            model,
            problem.spaces,
            own.batches,
            modules,
            columns=_COLUMNS,
            generator=generator,
            point=own.cores,
            progress=ticker(problem, f"inputs of adapter {own.name}", own.batches),
        )
        for module in modules:
            sums[module] = sums[module].plus(problem.spaces[module], own, module, sketches.pop(module))
    total = sum(own.weight for own in used)
    return {module: widened(problem.spaces[module], sums[module].rows(total)) for module in modules}


@dataclass(frozen=True)
class _Sums:
    """Sums over adapters for one module: Σ wᵢ M_i VᵀĜᵢ and Σ wᵢ M_i Vᵀ, (p, d); diag and root of Σ wᵢ Ĝᵢ."""

    pulls: Tensor
    shares: Tensor
    diagonal: Tensor
    kept: Tensor
    root: Tensor

    @classmethod
    def of(cls, space: CoreSpace) -> "_Sums":
        """Nothing yet."""
        d, p = len(space.right), space.left.shape[1]
        zeros = torch.zeros(p, d, dtype=torch.float64, device=space.right.device)
        return cls(zeros, zeros, zeros.new_zeros(d), zeros.new_zeros(d), zeros.new_zeros(d, 0))

    def plus(self, space: CoreSpace, own: OwnData, module: str, sketch: InputSketch) -> "_Sums":
        """One adapter more."""
        a, weight = OFF_DIAGONAL, own.weight
        right, core = space.right.double(), own.cores.get(module)
        update = torch.zeros_like(self.shares) if core is None else core.double() @ right.T
        seen = sketch.image @ (sketch.test.T @ right)
        pull = (
            torch.zeros_like(update)
            if core is None
            else a * core.double() @ seen.T + (1 - a) * update * sketch.diagonal
        )
        return _Sums(
            self.pulls + weight * pull,
            self.shares + weight * update,
            self.diagonal + weight * sketch.diagonal,
            self.kept + weight * (1 - a) * sketch.diagonal,
            _cut(torch.cat([self.root, (weight * a) ** 0.5 * sketch.root()], dim=1)),
        )

    def rows(self, total: float) -> Tensor:
        """R by the Woodbury identity, with RegMean's ridge."""
        ridge = RIDGE * float(self.diagonal.mean()) / total
        ridge = ridge if ridge > 0 else 1.0
        straight = self.kept + ridge * total
        target = (self.pulls + ridge * self.shares) / straight
        scaled = self.root / straight[:, None]
        small = torch.eye(self.root.shape[1], dtype=torch.float64, device=target.device) + self.root.T @ scaled
        return target - torch.linalg.solve(small, (target @ self.root).T).T @ scaled.T


def _cut(root: Tensor) -> Tensor:
    """The leading columns of Z as they matter in Z Zᵀ."""
    if root.shape[1] <= _ROOT:
        return root
    _, vectors = torch.linalg.eigh(root.T @ root)
    return root @ vectors[:, -_ROOT:]
