"""The whole merge, for methods that look at data before they merge layers, and what they hand to the layers."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..core_space import CoreSpace
    from ..data_loader import Batch
    from ..lora_utils import Adapter, BaseWeights

__all__ = ["MergeProblem", "Prepared", "Refuses"]


class Refuses(Protocol):
    """Says which harmful prompts a model refuses; who judges is not a method's matter."""

    def __call__(self, model: "PreTrainedModel", batches: "Sequence[Batch]") -> Sequence[bool]:
        """Ask one model.

        Args:
            model: in evaluation mode; it computes as the merge that is asked about.
            batches: harmful prompts, and the refusals that answer them, which may be looked at but need not.

        Returns:
            For every prompt in order whether it is refused; an empty or degenerate answer is no refusal.
        """
        ...


@dataclass(frozen=True)
class MergeProblem:
    """The whole merge, for methods that look at data before they merge layers.

    Attributes:
        adapters: what is merged, with roles and weights.
        spaces: core space of every module, in merging order.
        model: base model in evaluation mode, or None.
        harm: calibration batches (harmful prompt, refusal).
        benign: calibration batches (benign prompt, good answer).
        adapter_benign: benign batches of single adapters' own data, by adapter name.
        seed: seed of every random choice.
        progress: called with (stage, done, total) while long work runs.
        base_weights: weights of the (unaligned) base, read one module at a time, or None.
        aligned_weights: weights of the same base after alignment, or None.
        cache: where a sweep over weights lets methods keep what does not depend on them, by a key of their own; None
            keeps nothing. Adapters, data and spaces must be the same for all merges that share one.
        refuses: says which prompts a model refuses, for methods that keep to a rate of refusals, or None.
        keep: folder in which several processes keep their parts of statistics until the merge is done, or None.
    """

    adapters: "Sequence[Adapter]"
    spaces: "Mapping[str, CoreSpace]"
    model: "PreTrainedModel | None" = None
    harm: "Sequence[Batch]" = ()
    benign: "Sequence[Batch]" = ()
    adapter_benign: "Mapping[str, Sequence[Batch]]" = field(default_factory=dict)
    seed: int = 0
    progress: Progress | None = None
    base_weights: "BaseWeights | None" = None
    aligned_weights: "BaseWeights | None" = None
    cache: dict[Hashable, Any] | None = None
    refuses: Refuses | None = None
    keep: Path | None = None

    def cached(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What :attr:`cache` holds under a key, made when it is first asked for; made every time where nothing is kept.

        Args:
            key: with the method's name and everything but the weights that the value depends on.
            make: the value; whoever asks must not change it.

        Returns:
            The value.
        """
        if self.cache is None:
            return make()
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]


@dataclass(frozen=True)
class Prepared:
    """What :attr:`MergeMethod.prepare` hands to the layers.

    Attributes:
        state: anything the method's layer function wants; opaque to everybody else.
        report: plain figures for ``merge_report.json``.
        warnings: sentences for the user.
        spaces: core spaces to merge in, where the result leaves those of the problem; they must contain every
            adapter's update. None keeps the problem's.
    """

    state: Any = None
    report: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    spaces: "Mapping[str, CoreSpace] | None" = None
