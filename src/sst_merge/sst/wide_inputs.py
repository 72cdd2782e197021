"""Core spaces that reach further on the input side than the adapters' own rows.

The best merge of several skills on their own inputs, argmin Σ ‖(ΔW − ΔW_i) X_i‖², has rows in the span of
Gᵢ-images of the adapters' rows (RegMean, arXiv:2212.09849), which the core space of the adapters cuts off. With those
rows added U stays, so that the merge's rank is bounded as before, and every ΔW_i stays exact.
"""

from dataclasses import replace

from ..baselines.regmean import regmean
from ..methods import MergeProblem
from .collect import own_benign

__all__ = ["with_wide_inputs"]


def with_wide_inputs(problem: MergeProblem) -> MergeProblem:
    """The same merge in spaces whose V also spans the rows of RegMean's merge of all adapters.

    Args:
        problem: with model and data; a safety adapter counts on the harm data.

    Returns:
        The problem with V (d_in, q') instead of (d_in, q), q' ≤ q + p; embeddings, and everything where only one
        adapter has a weight, stay as they are.

    Raises:
        MergeError: a utility adapter without data of its own; RegMean would take the common ones.
    """
    for adapter in problem.adapters:
        if adapter.role == "utility":
            own_benign(problem, adapter.name)
    assert regmean.prepare is not None
    # Nobody asks for these moments again, so none of them is stored.
    prepared = regmean.prepare(replace(problem, cache=None), regmean.options())
    return problem if prepared.spaces is None else replace(problem, spaces=prepared.spaces)
