"""pass@k from n samples a problem, without bias (Chen et al. 2021, arXiv:2107.03374)."""

from math import comb

from ..errors import DataError

__all__ = ["pass_at_k", "pass_scores"]

_TRIES = (10, 100)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Estimate the probability that at least one of k samples passes: 1 − C(n − c, k) / C(n, k), their equation 1.

    The binomials are exact integers and subtracted as such, so nothing cancels.

    Args:
        samples: n, how many were drawn for the problem.
        passed: c, how many of them passed.
        k: how many tries the estimate is for.

    Returns:
        The estimate; the mean over problems is pass@k.

    Raises:
        DataError: not 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise DataError(
            f"pass@{k} from {passed} passed of {samples} samples: expected 0 ≤ passed ≤ samples and 1 ≤ k ≤ samples; "
            f"draw at least k samples a problem"
        )
    every = comb(samples, k)
    return (every - comb(samples - passed, k)) / every


def pass_scores(samples: int, passed: int) -> dict[str, float]:
    """The columns of one problem that was tried several times.

    Args:
        samples: n, how many answers were drawn.
        passed: c, how many of them passed.

    Returns:
        ``correct``: pass@1, the share that passed; and ``pass_at_10``, ``pass_at_100`` where n is large enough.
    """
    tries = {f"pass_at_{k}": pass_at_k(samples, passed, k) for k in _TRIES if k <= samples}
    return {"correct": pass_at_k(samples, passed, 1), **tries}
