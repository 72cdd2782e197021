"""What a plan refuses, and what it warns of, before anything is computed."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from ..errors import BaseModelError, DataError, MergeError
from ..lora_utils import Adapter, BaseModelIndex
from ..methods import Needs
from ..texts import counted
from .module_plan import ModulePlan

__all__ = ["UNNAMED", "check_bias", "check_needs", "check_rank", "check_seen", "plan_warnings"]

UNNAMED = "model"
"""What BaseModelIndex.of calls a model that comes without a name."""

_DATA_INPUTS = {
    "model": "the base (--base BASE; base_model in YAML; model= in Python)",
    "harm": "harmful prompts with refusals (--data-harm-path FILE; data.harm; harm=)",
    "benign": "prompts of your skills with good answers (--data-benign-path FILE; data.benign; benign=)",
}
_NO_PROMPTS = (
    "Without prompts of your own take the small general set that ships, --calibration builtin (data.calibration: "
    "builtin). "
)


def check_needs(method: str, needs: Needs, adapters: Sequence[Adapter], given: Collection[str]) -> None:
    """Roles, data and weights that the method needs.

    Args:
        method: its name.
        needs: what it needs.
        adapters: what is merged.
        given: which of the merge's inputs are there, as in :func:`~.plan.plan_merge`.

    Raises:
        MergeError: a role is missing, or nothing shows what alignment changed.
        DataError: model or data are missing.
        BaseModelError: the base's weights are missing.
    """
    roles = {adapter.role for adapter in adapters}
    missing = sorted(needs.roles - roles)
    if missing:
        raise MergeError(
            f"method {method!r} needs at least one adapter of role {missing[0]!r}; found only "
            f"{', '.join(sorted(roles))}. Set the roles of the adapters, or choose another method"
        )
    absent = [name for name in _DATA_INPUTS if name not in given]
    if needs.data and absent:
        why = f"; {needs.why}" if needs.why else ""
        raise DataError(
            f"method {method!r} reads calibration data; give what is missing: "
            f"{'; '.join(_DATA_INPUTS[name] for name in absent)}. {'' if absent == ['model'] else _NO_PROMPTS}"
            f"Or choose a method without data, such as --method task_arithmetic{why}"
        )
    if needs.base and "model" not in given:
        raise BaseModelError(f"method {method!r} reads the base model's weights; give base_model (model=)")
    pair = {"base_weights", "aligned_weights"} & set(given)
    if needs.aligned_base and len(pair) < 2 and "safety" not in roles:
        found = f"only {pair.pop()}" if pair else "neither of them, and no adapter of role 'safety'"
        raise MergeError(
            f"method {method!r} needs to know what alignment changed; found {found}. Give base_model and "
            f"aligned_base_model as local folders (base_weights=, aligned_weights= in Python), or an adapter of role "
            f"safety in their place"
        )


def check_rank(rank: int, modules: Sequence[ModulePlan]) -> None:
    """The rank that the output is to have.

    Raises:
        MergeError: no module can have it.
    """
    largest = max(module.rank for module in modules)
    if not 1 <= rank <= largest:
        raise MergeError(
            f"rank = {rank} does not fit: these adapters' merge has at most rank {largest} in any module; give 1 to "
            f"{largest}, or leave rank out for the exact result"
        )


def check_seen(method: str, needs: Needs, modules: Sequence[ModulePlan]) -> None:
    """A running base shows what goes into its layers, and not what each of several fused experts gets.

    Raises:
        MergeError: the method needs that.
    """
    bare = [module for module in modules if module.kind.bare]
    if not bare or not (needs.data or needs.base):
        return
    owners = {module.kind.owner(module.name) for module in bare}
    ends = sorted({re.sub(r".*\.\d+\.", "", owner) for owner in owners})
    flags = " ".join(f"--leave-out {end}" for end in ends)
    raise MergeError(
        f"method {method!r} looks at the layers of the running base, and fused experts and routers "
        f"({counted(len(bare), 'module')}, such as {bare[0].name!r}) are none: what each expert gets cannot be seen "
        f"there. Choose a method without data (task_arithmetic, ties, dare, ...), or leave them out: {flags}"
    )


def check_bias(modules: Sequence[ModulePlan]) -> None:
    """Biases, which not every kind of layer can have in PEFT's format.

    Raises:
        MergeError: one adapter could not hold all modules.
    """
    unbiased = [module for module in modules if not module.kind.can_have_bias]
    biased = [module.name for module in modules if module.bias]
    if unbiased and biased:
        found = f"module {unbiased[0].name!r} is {unbiased[0].kind.described}"
        raise MergeError(
            f"{found} and module {biased[0]!r} has a LoRA bias: PEFT "
            f"cannot hold both in one adapter, so this merge could not be saved; leave one of these modules out "
            f"(--leave-out), or the adapter with it"
        )


def plan_warnings(adapters: Sequence[Adapter], base: BaseModelIndex | None, *, noted: bool) -> list[str]:
    """Sentences about adapters that fit the merge and may not be what was meant.

    Args:
        adapters: what is merged.
        base: layers of the base, or None.
        noted: whether something else says why there is no base.

    Returns:
        The sentences, adapter by adapter.
    """
    found = []
    if base is None and not noted:
        found.append("no base model was given, so module names were not checked against its layers")
    for adapter in adapters:
        named, checked = adapter.base_model, None if base is None else base.name
        # The same base may lie in several places, so only another last name is worth a word.
        if named and checked and checked != UNNAMED and Path(named).name != Path(checked).name:
            found.append(f"adapter {adapter.name!r} names base {named!r}, it was checked against {checked!r}")
        if adapter.left_out:
            found.append(
                f"adapter {adapter.name!r}: left out, as no part of its low-rank update: "
                f"{counted(len(adapter.left_out), 'tensor')}, such as {adapter.left_out[0]!r}"
            )
        found += [f"adapter {adapter.name!r}: {note}" for note in adapter.notes]
        if adapter.is_scaled_away:
            found.append(
                f"adapter {adapter.name!r} contributes nothing: its scale is 0 in all its modules "
                f"({len(adapter.modules)}; lora_alpha in its adapter_config.json)"
            )
        if adapter.weight == 0:
            found.append(f"adapter {adapter.name!r} has weight 0")
    return found
