"""What merging one module costs: memory by its matrices, time by a plain guess that a measured module corrects."""

from dataclasses import dataclass

__all__ = ["ModuleCost"]

# Of one slow core: products of float64, and single entries that a method trims, drops or elects.
_PER_S = 18e9
_ENTRY_S, _ADAPTER_ENTRY_S = 20e-9, 10e-9
_NUMBER_S = 17e-9  # to read a factor's number, or to write one
_MODULE_S = 2e-3


@dataclass(frozen=True, kw_only=True)
class ModuleCost:
    """One module's sizes.

    Attributes:
        d_out: outputs.
        d_in: inputs, a bias' constant one counted.
        ranks: of the adapters that touch it.
        rank: of the merged update, at most.
        whole: whether the method works on ΔW instead of the core.
        cut: whether the output's rank is given and no energy, so that of ΔW leading singular values are enough.
        added: whether the factors are put side by side, without any decomposition.
        itemsize: bytes of a number of ΔW and of the output.
    """

    d_out: int
    d_in: int
    ranks: tuple[int, ...]
    rank: int
    whole: bool
    cut: bool
    added: bool
    itemsize: int

    @property
    def bytes(self) -> int:
        """Working memory, roughly; a model and Fisher statistics come on top."""
        total, sides = sum(self.ranks), self.d_out + self.d_in
        if self.whole:
            # ΔW are formed one at a time: the method's handful of matrices, the merged one, and what its SVD needs.
            return self.itemsize * (total * sides + 12 * self.d_out * self.d_in)
        if self.added:
            # Factors, their concatenation, balanced; and the Gram matrices that its norm comes from.
            return self.itemsize * (4 * total * sides + 3 * total * total)
        # In float64: factors, their concatenation, the bases and LAPACK's copy; one core per adapter.
        return 8 * (4 * total * sides + (len(self.ranks) + 3) * total * total)

    @property
    def seconds(self) -> float:
        """Seconds of one core, within a factor of about three."""
        total, sides = sum(self.ranks), self.d_out + self.d_in
        moved = _MODULE_S + _NUMBER_S * sides * (total + self.rank) / 2
        if self.added:
            return moved + 2.0 * sides * total * total / (2 * _PER_S)
        if not self.whole:
            # Two QR decompositions, one SVD between them, and the reflectors applied to the kept columns.
            return moved + (2.0 * sides * total * (total + 2 * self.rank) + 20.0 * total**3) / _PER_S
        entries = self.d_out * self.d_in
        passes = entries * (_ENTRY_S + _ADAPTER_ENTRY_S * len(self.ranks)) + 2.0 * entries * total / _PER_S
        if self.cut:
            return moved + passes
        # The Gram matrix of the smaller side, its eigenvectors and the products with them.
        side = min(self.d_out, self.d_in)
        return moved + passes + side * (4.0 * entries + 9.0 * side * side) / _PER_S
