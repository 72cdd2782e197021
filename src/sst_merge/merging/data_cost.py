"""What a merge's passes over data will need: memory and time, from shapes and lengths; no weight is read.

Memory is that of one process whose model lies where it computes. A pass with gradients keeps, for the way back, about
as many numbers a token as the layers give out (half as many again: a frozen layer needs no input then, but gates,
norms, queries, keys and values are needed), and the vocabulary's numbers at answers alone. Time is matrix products at
the speed that this machine multiplies, measured in a moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import MergeError
from ..lora_utils import BaseModelIndex
from ..sst.wide_inputs import wide_inputs_bytes
from ..texts import memory_size
from .data_passes import TextSize, is_wide, passes_of
from .plan import MergePlan

__all__ = ["DataPass", "PassCosts", "pass_costs", "require_memory"]

_KEPT = 1.45
# Copies of the logits at answers while log-odds are differentiated; the C library gives blocks above 32 MiB back to the
# system at once, and keeps smaller ones.
_COPIES_KEPT, _COPIES_LARGE, _LARGE_BLOCK = 7.0, 5.5, 32 << 20
_LIBRARIES = 32 << 20  # code and buffers of libraries that come into memory with the first computation
_SLACK = 1.05  # what the allocator cannot use
_SHARED_HEAD = 4096  # vocabularies from which the output layer computes at answers alone
_PRODUCTS = 0.5  # of the speed of large matrix products, what a whole pass reaches


@dataclass(frozen=True)
class DataPass:
    """One stage that reads data.

    Attributes:
        name: as the progress bar calls it.
        tokens: that are computed, over all its passes.
        bytes: that it needs beside weights, bases and statistics, at most.
        seconds: that it takes.
    """

    name: str
    tokens: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class PassCosts:
    """Memory and time of a merge with data.

    Attributes:
        parts: what is in memory while data are read, in bytes: ``program``, ``weights``, ``bases``, ``statistics``,
            ``activations``.
        passes: stages in order.
        itemsize: bytes of one number of the weights.
    """

    parts: Mapping[str, int]
    passes: tuple[DataPass, ...]
    itemsize: int

    @property
    def bytes(self) -> int:
        """Largest resident size of the process."""
        return sum(self.parts.values())

    @property
    def seconds(self) -> float:
        """Of all passes."""
        return sum(one.seconds for one in self.passes)


def pass_costs(
    plan: MergePlan,
    base: BaseModelIndex,
    data: Mapping[str, TextSize],
    *,
    dtype: str,
    program: int,
    operations: float,
    only: str | None = None,
    bits: float | None = None,
) -> PassCosts:
    """What the passes of a merge need.

    Args:
        plan: a checked merge.
        base: layers of its base.
        data: ``harm``, ``benign`` and ``benign of NAME`` for adapters with data of their own → how much text.
        dtype: type of the loaded model.
        program: resident bytes of a process that has everything imported.
        operations: floating-point operations a second in that type.
        only: of a single Fisher (``fisher collect``): ``harm``, ``benign`` or ``benign of NAME``.
        bits: of a weight of a layer, where they are quantised; embeddings and output layer are not.

    Returns:
        Estimates: memory within about a fifth, time within a factor of three.
    """
    model = _Model.of(plan, base, dtype)
    wanted = passes_of(plan, data, only)
    passes = []
    for name, text, forward, backward in wanted:
        tokens, answers = text.largest
        kept = model.activations(tokens, answers, gradients=backward > 0)
        work = model.operations(text) * (forward + backward)  # no gradient of a weight is taken
        passes.append(DataPass(name, round(text.tokens * (forward + backward)), kept, work / (_PRODUCTS * operations)))
    held = {name: text.samples for name, text, _, _ in wanted if name.startswith("held-out")}
    parts = {
        "program": program + _LIBRARIES,
        "weights": base.parameters * model.itemsize
        - (0 if bits is None else round(model.layers * max(0.0, model.itemsize - bits / 8))),
        "bases": model.bases,
        "statistics": model.statistics(plan, sum(held.values()), 1 if only else 2),
        "activations": round(_SLACK * max((one.bytes for one in passes), default=0)),
    }
    return PassCosts(parts, tuple(passes), model.itemsize)


def require_memory(
    needed: int,
    available: int,
    *,
    parts: Mapping[str, int],
    batch_size: int,
    length: int | None = None,
    itemsize: int = 4,
    packed: bool = False,
) -> None:
    """Refuse what does not fit.

    Args:
        needed: bytes.
        available: bytes.
        parts: of :class:`PassCosts`.
        batch_size: sequences in a pass, the largest one where ``batch_tokens`` cuts the data.
        length: tokens of one of them, where it does.
        itemsize: bytes of one number of the weights.
        packed: whether the weights are quantised, so that another type makes them no smaller.

    Raises:
        MergeError: both numbers, and the setting that would fit.
    """
    if needed <= available:
        return
    rest = needed - parts["activations"]
    found = f"this merge needs about {memory_size(needed)} of memory, and {memory_size(available)} are there"
    each = parts["activations"] / batch_size
    if rest + each <= available:
        size = int((available - rest) / each) * (length or 1)
        field = "batch_size" if length is None else "batch_tokens"
        raise MergeError(
            f"{found}: its activations take {memory_size(parts['activations'])}; set data.{field} to {size} "
            f"(--data-{field.replace('_', '-')} {size})"
        )
    smaller = parts["weights"] * 2 // itemsize
    if itemsize > 2 and not packed and rest - parts["weights"] + smaller + each <= available:
        share = "half" if itemsize == 4 else "a quarter"
        raise MergeError(
            f"{found}: the weights take {memory_size(parts['weights'])}; load them in {share} of it (--model-dtype "
            f"bfloat16), with {'data.batch_size' if length is None else 'data.batch_tokens'} 1"
        )
    raise MergeError(
        f"{found}, which no batch size makes enough ({memory_size(rest)} without activations); take a machine with "
        f"more memory, several devices (--device-map auto), "
        f"{'' if packed else 'a quantised base (--quantization 4bit), '}or a method without data "
        f"(--method task_arithmetic)"
    )


@dataclass(frozen=True)
class _Model:
    """Sizes of a base and of the bases in it.

    Attributes:
        itemsize: bytes of a number of the model.
        layers: weights of all layers that every token goes through.
        head: weights of the output layer.
        outputs: numbers that these layers give out, a token.
        vocabulary: of the output layer, 0 without one.
        widths: (p, q) of every module of the merge.
        sides: (d_out, d_in) of the same.
        spared: whether the output layer computes at answers alone.
        bases: bytes of all U and V.
    """

    itemsize: int
    layers: int
    head: int
    outputs: int
    vocabulary: int
    widths: tuple[tuple[int, int], ...]
    sides: tuple[tuple[int, int], ...]
    spared: bool
    bases: int

    @classmethod
    def of(cls, plan: MergePlan, base: BaseModelIndex, dtype: str) -> "_Model":
        import torch

        itemsize = getattr(torch, dtype).itemsize
        vocabularies = {shape.d_in for shape in base.modules.values() if not shape.kind.reads_vectors}
        heads = {n: s for n, s in base.modules.items() if s.kind.reads_vectors and s.d_out in vocabularies}
        inner = [s for n, s in base.modules.items() if s.kind.reads_vectors and n not in heads]
        sides = [(module.d_out, module.d_in + int(module.bias)) for module in plan.modules]
        totals = [sum(module.ranks) for module in plan.modules]
        # Wide spaces have as many rows more on the input side as the outputs have columns.
        more = 2 if is_wide(plan) else 1
        widths = [(min(out, t), min(into, more * t)) for (out, into), t in zip(sides, totals, strict=True)]
        numbers = sum(out * p + into * q for (out, into), (p, q) in zip(sides, widths, strict=True))
        # Where the model computes in another type, the hooks have bases of their own.
        each = plan.settings.compute_dtype.itemsize
        vocabulary = max((s.d_out for s in heads.values()), default=0)
        return cls(
            itemsize=itemsize,
            layers=sum(s.d_out * s.d_in for s in inner),
            head=max((s.d_out * s.d_in for s in heads.values()), default=0),
            outputs=sum(s.d_out for s in inner),
            vocabulary=vocabulary,
            widths=tuple(widths),
            sides=tuple(sides),
            spared=vocabulary >= _SHARED_HEAD and not heads.keys() & {module.name for module in plan.modules},
            bases=numbers * (each if each == itemsize else each + itemsize),
        )

    def activations(self, tokens: int, answers: int, *, gradients: bool) -> int:
        """Bytes that one pass over a batch needs at once."""
        logits = 4 * self.vocabulary * (answers if self.spared else tokens)
        if not gradients:
            # Nothing is kept for the way back: one layer's numbers, and two sets of log-probabilities.
            return self.itemsize * tokens * max((out for out, _ in self.sides), default=0) * 4 + logits * 4
        projected = sum(q for _, q in self.widths)
        copies = _COPIES_KEPT if logits <= _LARGE_BLOCK else _COPIES_LARGE
        return round(self.itemsize * tokens * (_KEPT * self.outputs + projected) + logits * copies)

    def operations(self, text: TextSize) -> float:
        """Of one forward pass over a text."""
        projections = sum(o * p + i * q for (o, i), (p, q) in zip(self.sides, self.widths, strict=True))
        seen = text.answers if self.spared else text.tokens
        return 2.0 * ((self.layers + projections) * text.tokens + self.head * seen)

    def statistics(self, plan: MergePlan, held: int, count: int) -> int:
        """Bytes of the Fishers, of their eigenvectors, of held-out gradients and of a few sets of cores."""
        options: Any = plan.options
        structure = getattr(getattr(options, "fisher", None), "structure", "kronecker")
        sums = sum(_numbers("kronecker" if structure == "auto" else structure, p, q) for p, q in self.widths)
        cores = sum(p * q for p, q in self.widths)
        # Second moments of inputs, or sketches of them, are gone before a Fisher is collected.
        if is_wide(plan):
            reading = [module for module in plan.modules if module.kind.reads_vectors]
            moments = wide_inputs_bytes(
                {m.name: (m.d_out, m.d_in, sum(m.ranks)) for m in reading},
                len(plan.adapters) + getattr(options, "aligned_base", False),
            )
        else:
            gib = getattr(options, "memory_gib", 0.0)
            moments = min(int(gib * (1 << 30)), 24 * sum(into**2 for _, into in self.sides))
        return max(moments, 8 * sums * (2 * count) + 4 * cores * (2 * held + len(plan.adapters) + 8))


def _numbers(structure: str, p: int, q: int) -> int:
    """Numbers of one module's statistics; gradients of single samples are counted apart."""
    match structure:
        case "block":
            return (p * q) ** 2
        case "diagonal":
            return 2 * p * q
        case "lowrank":
            return 0
        case _:
            return p * p + q * q
