"""The kinds of adapters that are read, as data: names of their tensors, and what they need of the base.

Read in PEFT 0.21. Kinds that are not here have no ΔW (prompts, routers), or one that PEFT works out anew from the whole
base when it loads them (PSOFT, OSF, FRoD, AdaMSS), or numbers that are dealt out in the order of the base's layers
(TinyLoRA, Uni-LoRA).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["KINDS", "NO_UPDATE", "Kind"]

Needs = Literal["nothing", "shapes", "weights"]


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        name: PEFT's ``peft_type``.
        prefix: of the names of its tensors behind the module's.
        needs: of the base: nothing, shapes of its layers (its config.json), or their weights.
        fields: of its configuration that are read here, or leave ΔW alone; None where PEFT itself reads them.
    """

    name: str
    prefix: str
    needs: Needs
    fields: Collection[str] | None = None

    def needs_for(self, config: Mapping[str, Any]) -> Needs:
        """What an adapter with this configuration needs of the base."""
        # MiSS in its mode "bat" turns blocks of the weight itself; its other modes add to it.
        return "weights" if self.name == "MISS" and config.get("init_weights") == "bat" else self.needs


_LYCORIS = ("r", "alpha", "rank_pattern", "alpha_pattern", "rank_dropout", "module_dropout", "init_weights")
_ADALORA = ("init_r", "target_r", "lora_alpha", "rank_pattern", "fan_in_fan_out", "init_lora_weights", "r")
_VERA = ("r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "fan_in_fan_out", "init_weights")

_ALL = (
    Kind("LOHA", "hada_", "nothing", {*_LYCORIS, "use_effective_conv2d"}),
    Kind(
        "LOKR",
        "lokr_",
        "nothing",
        {*_LYCORIS, "use_effective_conv2d", "decompose_both", "decompose_factor", "rank_dropout_scale"},
    ),
    Kind("ADALORA", "lora_", "nothing", _ADALORA),
    Kind("VERA", "vera_lambda_", "shapes", _VERA),
    Kind("PVERA", "pvera_lambda_", "shapes"),
    Kind("RANDLORA", "randlora_", "shapes"),
    Kind("VBLORA", "vblora_", "shapes"),
    Kind("FOURIERFT", "fourierft_", "shapes"),
    Kind("WAVEFT", "waveft_", "shapes"),
    Kind("C3A", "c3a_", "shapes"),
    Kind("GRALORA", "gralora_", "shapes"),
    Kind("SHIRA", "shira_", "shapes"),
    Kind("DELORA", "delora_", "shapes"),
    Kind("MISS", "miss_", "shapes"),
    Kind("IA3", "ia3_", "weights"),
    Kind("OFT", "oft_", "weights"),
    Kind("BOFT", "boft_", "weights"),
    Kind("HRA", "hra_", "weights"),
    Kind("ROAD", "road_", "weights"),
    Kind("HIRA", "hira_", "weights"),
)
KINDS = {kind.name: kind for kind in _ALL}
"""``peft_type`` → kind."""

NO_UPDATE = frozenset({
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"),
    *("XLORA", "POLY"),
})
"""Kinds that put something into the input, or choose by it: they have no ΔW at all."""
