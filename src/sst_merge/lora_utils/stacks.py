"""Which bare parameter a LoRA of a file belongs to: PEFT writes the module's name and the depth of wrapping alone."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .experts import DECLARED
from .settings import LoraSettings

__all__ = ["Stack", "Unplaced", "find_stacks"]

_INNER = ".base_layer"


@dataclass(frozen=True)
class Stack:
    """The LoRA of one bare parameter.

    Attributes:
        stored: module as in the file, such as ``model.layers.0.mlp.experts.base_layer``.
        module: that owns the parameter.
        parameter: its name there; ``weight`` of a router.
    """

    stored: str
    module: str
    parameter: str

    @property
    def path(self) -> str:
        """The parameter's name in the model."""
        return f"{self.module}.{self.parameter}"


@dataclass(frozen=True)
class Unplaced:
    """A module whose LoRA is on bare parameters that cannot be told.

    Attributes:
        module: that owns them.
        why: end of a sentence.
    """

    module: str
    why: str


def find_stacks(
    shapes: Mapping[str, tuple[int, int]], settings: LoraSettings, names: Mapping[str, tuple[str, str]]
) -> tuple[list[Stack], list[Unplaced]]:
    """Find the parameters of all LoRA that is on no layer.

    Args:
        shapes: module as in the file (a LoRA inside a LoRA has ``.base_layer`` at its end) → (d_out, d_in) of its
            factors.
        settings: the configuration; ``target_parameters`` are names, or ends of names, of parameters.
        names: module → (its name, its name as stored), for those that are not inside of another LoRA.

    Returns:
        Stacks, and what cannot be placed. Modules of layers are in neither.
    """
    stacks: list[Stack] = []
    unplaced: list[Unplaced] = []
    for module in names:
        wrapped = [module]
        while (inner := wrapped[-1] + _INNER) in shapes:
            wrapped.append(inner)
        owned = _parameters(module, settings.target_parameters)
        if len(wrapped) == 1 and not _is_bare(module, owned, names[module], settings):
            continue
        order, why = _order(wrapped, owned, shapes)
        stacks += [Stack(stored, module, parameter) for stored, parameter in zip(wrapped, order, strict=False)]
        if not order:
            unplaced.append(Unplaced(module, why))
    return stacks, unplaced


def _parameters(module: str, targets: Collection[str]) -> dict[str, str]:
    """Parameters of a module that are targets, if it has them: name → the target."""
    found: dict[str, str] = {}
    for target in sorted(targets):
        owner, _, name = target.rpartition(".")
        if not owner or module == owner or module.endswith(f".{owner}"):
            found.setdefault(name, target)
    return found


def _is_bare(module: str, owned: Mapping[str, str], names: tuple[str, str], settings: LoraSettings) -> bool:
    """Whether the LoRA of a module that is wrapped once is on a parameter rather than on a layer."""
    if not settings.target_parameters:
        return False
    # What an expression that is not tried says of a module, its shape will tell.
    unset = settings.coverage.target_modules is None
    covered = {settings.coverage.covers(name) for name in names} != {False}
    return unset or not covered or any("." in target for target in owned.values())


def _order(
    wrapped: list[str], owned: Mapping[str, str], shapes: Mapping[str, tuple[int, int]]
) -> tuple[tuple[str, ...], str]:
    """Names of the parameters from the outermost LoRA to the innermost; none, and why, where they cannot be told."""
    depth = len(wrapped)
    if not owned:
        why = "belongs to a LoRA inside a LoRA (fused experts, nn.MultiheadAttention)"
        return (), why if depth > 1 else "is none of target_modules, so it belongs to target_parameters"
    if depth == 1:
        # A name without its module, such as "down_proj", would be one of any module's.
        dotted = [name for name, target in owned.items() if "." in target]
        alone = list(owned) if "expert" in wrapped[0].rpartition(".")[2] else []
        choice = dotted if len(dotted) == 1 else alone
        if len(choice) == 1:
            return (choice[0],), ""
    elif depth == 2 and set(DECLARED) <= owned.keys():
        outer, inner = (shapes[stored] for stored in wrapped)
        first, last = DECLARED
        if _are_feed_forward(inner, outer):
            return (last, first), ""
        if _are_feed_forward(outer, inner):
            return (first, last), ""
        return (), f"has LoRA of shapes {outer} and {inner} (d_out, d_in), which are no {first} and {last}"
    return (), f"has LoRA of {depth} of the parameters {sorted(owned)}, and the file does not say of which"


def _are_feed_forward(gate_up: tuple[int, int], down: tuple[int, int]) -> bool:
    """Whether two shapes (d_out, d_in) are those of gate and up together, and of down.

    Transposed stacks that PEFT does not know to be such (Llama 4) have both turned around.
    """
    (up_out, up_in), (down_out, down_in) = gate_up, down
    plain = up_in == down_out and up_out == 2 * down_in
    return plain or (up_out == down_in and up_in == 2 * down_out)
