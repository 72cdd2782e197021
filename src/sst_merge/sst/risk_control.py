"""A rate that is kept with a stated confidence: a binomial bound, and tests in a fixed order (design, section 4).

Points are tested from the safest to the least safe one. Each is a hypothesis "its true rate is below the target",
rejected where the one-sided Clopper-Pearson bound (Biometrika 26, 1934) of its counts reaches the target. The first
that is not rejected ends the sequence. The first point whose true rate is below the target is rejected with
probability δ at most, and no later one is tested unless it was; so all accepted points keep the target with probability
1 - δ at once, without a correction for their number (fixed-sequence testing; Learn-then-Test, arXiv:2110.01052).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, log

from ..errors import DataError, OptionError

__all__ = ["Tested", "allowed_misses", "fixed_sequence", "least_prompts", "lower_bound"]


@dataclass(frozen=True)
class Tested:
    """One point of the sequence.

    Attributes:
        kept: prompts on which the point did what it should.
        prompts: that it was tested on.
        bound: the true rate is at least this, with the stated confidence.
        accepted: whether the bound reaches the target.
    """

    kept: int
    prompts: int
    bound: float
    accepted: bool


def lower_bound(kept: int, prompts: int, delta: float) -> float:
    """One-sided Clopper-Pearson bound: the rate p at which at least ``kept`` of ``prompts`` has probability δ.

    Args:
        kept: successes.
        prompts: trials, independent and alike.
        delta: probability that the true rate lies below the bound, 0 < δ < 1.

    Returns:
        The bound, in [0, 1).

    Raises:
        DataError: not 0 ≤ kept ≤ prompts with prompts ≥ 1.
        OptionError: δ is no probability between 0 and 1.
    """
    if not 0 <= kept <= prompts or prompts < 1:
        raise DataError(f"{kept} successes of {prompts} prompts; expected 0 ≤ successes ≤ prompts and prompts ≥ 1")
    if not 0.0 < delta < 1.0:
        raise OptionError(f"δ = {delta}: expected 1 - confidence, above 0 and below 1")
    if kept == 0:
        return 0.0
    from scipy.special import betaincinv

    return float(betaincinv(kept, prompts - kept + 1, delta))


def least_prompts(target: float, delta: float) -> int:
    """How many prompts without a miss it takes to reach a target: the smallest n with targetⁿ ≤ δ.

    Args:
        target: rate, above 0 and below 1.
        delta: as in :func:`lower_bound`.

    Returns:
        n; with fewer prompts no point can pass.
    """
    n = max(1, ceil(log(delta) / log(target)))
    # The quotient of two logarithms may miss a whole number by one rounding.
    if n > 1 and lower_bound(n - 1, n - 1, delta) >= target:
        return n - 1
    return n if lower_bound(n, n, delta) >= target else n + 1


def allowed_misses(prompts: int, target: float, delta: float) -> int:
    """How many of the prompts may fail at a point that still passes.

    Args:
        prompts: at least one.
        target: rate, above 0 and below 1.
        delta: as in :func:`lower_bound`.

    Returns:
        The number; -1 where even none is too many.
    """
    misses = -1
    while misses < prompts and lower_bound(prompts - misses - 1, prompts, delta) >= target:
        misses += 1
    return misses


def fixed_sequence(counts: Iterable[tuple[int, int]], target: float, delta: float) -> list[Tested]:
    """Test points in the order given and stop at the first that is not accepted.

    Args:
        counts: (successes, prompts) of every point, safest first; a point is asked for only where all before it were
            accepted, so that a generator measures no more than is needed. The order must not depend on the counts.
        target: rate, above 0 and below 1.
        delta: probability of accepting any point whose true rate is below the target.

    Returns:
        All points that were tested; only the last one may be not accepted.
    """
    found: list[Tested] = []
    for kept, prompts in counts:
        bound = lower_bound(kept, prompts, delta)
        found.append(Tested(kept, prompts, bound, bound >= target))
        if not found[-1].accepted:
            break
    return found
