"""The one set of defaults of the two Fishers and of their eigenproblem (design, section 3), for every door to them.

Functions of this room and of :mod:`~sst_merge.gevp_solver`, the options of SST-Merge and the command line all read
them here.
"""

from typing import Literal

__all__ = ["DAMPING", "ESTIMATOR", "POINT", "STRUCTURE", "TRUST_BUDGET", "Estimator", "Point"]

Estimator = Literal["log_odds", "empirical", "sampled"]
"""What is differentiated: log p/(1-p) of the data's labels, log p of them, or log p of labels that the model draws."""

Point = Literal["trust", "merged", "own", "base"]
"""The model at which gradients are taken; see :meth:`~.role_patches.RolePatches.point`."""

STRUCTURE = "kronecker"
"""Name of a structure (:mod:`.structures`). A block of (pq)² numbers from a few hundred samples overfits."""

ESTIMATOR: Estimator = "log_odds"
"""Its gradient does not vanish on answers that the model is certain of."""

POINT: Point = "trust"
"""As close to the merge that is looked for as the second order allows."""

TRUST_BUDGET = 0.02
"""Nats per benign answer token that the point ``trust`` may lie away from the skilled model."""

DAMPING = 0.1
"""ρ, times the mean diagonal, of both Fishers: directions that no sample sees then share λ ≈ 1."""
