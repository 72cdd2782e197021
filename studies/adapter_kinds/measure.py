"""Other kinds of PEFT's adapters read as plain LoRA: rank, lost energy and the distance to PEFT's own ΔW.

A Llama-like model whose layers are wider than the rank up to which nothing is cut, one adapter of each kind with random
values, in float64. Every adapter is saved by PEFT and read with the defaults of this
package; the oracle is PEFT's merge into the base.

    python studies/adapter_kinds/measure.py --out studies/adapter_kinds [--seeds 3] [--width 320]
"""

import copy
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import __version__ as peft_version
from torch import Tensor, nn

from sst_merge.lora_utils import Adapter, Conversion
from sst_merge.reporting import markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options, versions, write_page

__all__ = ["KINDS", "Outcome", "measured"]

_TARGETS = ["q_proj", "down_proj"]
_NOISE = 0.02  # standard deviation of what is added to every trained number
# Class of PEFT's configuration → settings that are not its defaults, most because those do not fit this width.
KINDS: Mapping[str, Mapping[str, Any]] = {
    "LoHaConfig": {},
    "LoKrConfig": {},
    "AdaLoraConfig": {"total_step": 10},
    "VeraConfig": {},
    "PveraConfig": {},
    "VBLoRAConfig": {"num_vectors": 32, "vector_length": 64},
    "MissConfig": {"r": 32},
    "HRAConfig": {},
    "DeloraConfig": {},
    "GraloraConfig": {},
    "RandLoraConfig": {},
    "IA3Config": {"feedforward_modules": ["down_proj"]},
    "OFTConfig": {},
    "BOFTConfig": {},
    "RoadConfig": {},
    "HiraConfig": {},
    "FourierFTConfig": {},
    "WaveFTConfig": {},
    "C3AConfig": {"block_size": 64},
    "ShiraConfig": {},
}


@dataclass(frozen=True)
class Outcome:
    """One adapter, read.

    Attributes:
        rank: largest of a module.
        lost: share of ‖ΔW‖² of all modules that was left out.
        error: largest ‖found − PEFT's‖ / ‖PEFT's‖ of a module.
        base: whether the base was read.
        ranks: of all modules.
    """

    rank: int
    lost: float
    error: float
    base: bool
    ranks: dict[str, int] = field(default_factory=dict)


def _model(width: int, seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=width + width // 5,
        num_hidden_layers=1,
        num_attention_heads=5,
        num_key_value_heads=5,
    )
    return LlamaForCausalLM(config).double().eval()


def measured(kind: str, *, width: int, seed: int) -> Outcome:
    """Make one adapter, read it, and compare.

    Args:
        kind: class of PEFT's configuration.
        width: of the model.
        seed: of model and adapter.
    """
    import peft

    model = _model(width, seed)
    torch.manual_seed(seed)
    config = getattr(peft, kind)(target_modules=_TARGETS, **KINDS[kind])
    adapted = peft.get_peft_model(copy.deepcopy(model), config).double()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(adapted.named_parameters()):
        if parameter.requires_grad and "ranknum" not in name:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.add_(_NOISE * noise)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(f"{place}/base")
        adapted.save_pretrained(f"{place}/adapter")
        adapter = Adapter.load(f"{place}/adapter", conversion=Conversion(f"{place}/base"))
        merged = adapted.merge_and_unload()
        errors = {module: _error(adapter, module, model, merged) for module in adapter.modules}
    assert adapter.converted is not None
    ranks = {module: adapter.rank(module) for module in adapter.modules}
    return Outcome(
        max(ranks.values()), adapter.converted.lost, max(errors.values()), adapter.converted.base is not None, ranks
    )


def _error(adapter: Adapter, module: str, model: nn.Module, merged: nn.Module) -> float:
    after, before = (of.get_submodule(module).weight for of in (merged, model))
    assert isinstance(after, Tensor) and isinstance(before, Tensor)
    expected = (after - before).detach()
    return float((adapter.delta(module, dtype=torch.float64) - expected).norm() / expected.norm())


def _page(found: Mapping[str, list[Outcome]], width: int) -> str:
    rows = []
    for kind, outcomes in found.items():
        lost = max(one.lost for one in outcomes)
        low, high = min(one.rank for one in outcomes), max(one.rank for one in outcomes)
        rows.append([
            kind.removesuffix("Config"),
            str(low) if low == high else f"{low}–{high}",
            "0" if lost < 1e-12 else f"{lost:.2%}",
            f"{max(one.error for one in outcomes):.1e}",
        ])
    count = len(next(iter(found.values())))
    own = {kind: ", ".join(f"{name} {value}" for name, value in given.items()) for kind, given in KINDS.items()}
    settings = "; ".join(f"{kind.removesuffix('Config')} {said}" for kind, said in own.items() if said)
    table = markdown_table(rows, ["kind", "rank", "lost energy", "distance to PEFT's ΔW"])
    return (
        f"# Other kinds of adapters, read as plain LoRA\n\n"
        f"One adapter of each kind with random values (standard deviation {_NOISE} added\n"
        f"to every trained number) on the q_proj ({width} × {width}) and down_proj of one layer; {count} seeds, the\n"
        f"worst value of each. Settings are PEFT's defaults, but for these:\n{settings}.\n"
        f"Saved by PEFT {peft_version} in float64, read with the defaults of this package: a\n"
        f"rank of up to 256 is kept exactly; of a higher one 256 directions, or as many more as it takes to lose at\n"
        f"most 1 % of ‖ΔW‖² in every module. The distance is ‖found − PEFT's‖ / ‖PEFT's‖ of the worst module,\n"
        f"against PEFT's merge into the base; its square is the energy that was lost. Random values are the worst\n"
        f"case for a cut.\n\n"
        f"{versions()}. Made by `studies/adapter_kinds/measure.py`; all ranks are in `figures.json`. What each kind\n"
        f"needs is in [adapters](../../docs/adapters.md).\n\n{table}"
    )


def main() -> None:
    """Measure every kind, and write the page."""
    parser = study_options(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=320)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = {kind: [measured(kind, width=options.width, seed=seed) for seed in range(options.seeds)] for kind in KINDS}
    figures = {kind: [vars(one) for one in outcomes] for kind, outcomes in found.items()}
    write_page(options.out, _page(found, options.width), {"width": options.width, "kinds": figures})


if __name__ == "__main__":
    main()
