"""Core spaces that reach further on the input side than the adapters' own rows.

The best merge of several adapters on their own inputs, argmin Σ ‖(ΔW − ΔW_i) X_i‖², has rows in the span of
Gᵢ-images of the adapters' rows (RegMean, arXiv:2212.09849), which the core space of the adapters cuts off. With those
rows added U stays, so that the merge's rank is bounded as before, and every ΔW_i stays exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..baselines.regmean import regmean
from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from ..lora_utils import Adapter
from ..methods import MergeProblem

__all__ = ["with_wide_inputs"]

_BASE = "the base, which is safe as it is"


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
    """
    adapters = [*problem.adapters, *([_unchanged(problem.spaces)] if aligned_base else [])]
    assert regmean.prepare is not None
    # Nobody asks for these moments again, so none of them is stored.
    seen = replace(problem, adapters=adapters, harm=harm, benign=benign, cache=None)
    prepared = regmean.prepare(seen, regmean.options())
    return problem if prepared.spaces is None else replace(problem, spaces=prepared.spaces)


def _unchanged(spaces: Mapping[str, CoreSpace]) -> Adapter:
    """ΔW = 0 as an adapter, which must name one module."""
    module, space = next(iter(spaces.items()))
    nothing, _ = space.lift(space.coordinates(None))
    return Adapter.from_factors({module: nothing}, name=_BASE, role="safety")
