"""Cost of collecting Fisher statistics, against a plain forward pass with a backward pass to the embeddings.

Beside it stand the two kinds of an evaluation pass over the same data: the log-likelihood of the answers (one forward
pass) and answers of the same length written greedily, token by token.

Everything runs in one process on the same batches, interleaved and in random order; what is reported is the ratio
of times inside one round (median over rounds, and the 95 % interval of that median by order statistics). Extra
memory is the peak above the plain pass: of the allocator on a GPU, of the resident set in a fork on a CPU.

    python studies/fisher/measure.py --out studies/fisher
    python studies/fisher/measure.py --out out/fisher --device cuda --dtype bfloat16 --hidden 4096 \
        --intermediate 11008 --seq 512
"""

import argparse
import platform
import random
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sst_merge.core_space import CoreSpace
from sst_merge.data_loader.batch import Batch
from sst_merge.fim_calculator import compute_fim
from sst_merge.reporting import markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import interval, peak_memory, study_options, timed, write_page

_AGAINST = ("plain", "likelihood", "generation")
_HEADING = """# Cost of Fisher statistics

Time of collecting Fisher statistics as a multiple of three passes over the same batches: `plain`, a forward pass with
a backward pass to the embeddings; `likelihood`, an evaluation that scores given answers (one forward pass);
`generation`, an evaluation that writes answers of the same length. Rounds interleaved in one process; median over
rounds with the 95 % interval of the median. A random Llama; "base" collects at M = 0, "merged" with an update in place
(the model then also computes U M Vᵀ x). Made by `studies/fisher/measure.py`.
"""
STRUCTURES = ("diagonal", "kronecker", "block", "lowrank")


def parse() -> argparse.Namespace:
    """Command-line options."""
    parser = study_options(__doc__)
    for name, default in (
        ("hidden", 512),
        ("intermediate", 1376),
        ("layers", 2),
        ("heads", 8),
        ("vocabulary", 2048),
        ("core", 16),
        ("seq", 128),
        ("batch", 4),
        ("batches", 2),
        ("rounds", 7),
        ("threads", 1),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    return parser.parse_args()


def build(options: argparse.Namespace) -> tuple[Any, dict[str, CoreSpace], dict[str, Tensor], list[Batch]]:
    """A random Llama, core spaces of all linear layers, a point in them, and batches with half a prompt."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(options.seed)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
    )
    with torch.device(options.device):
        model = LlamaForCausalLM(config).to(getattr(torch, options.dtype)).eval()
    model.requires_grad_(False)
    spaces, point = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            bases = [
                torch.linalg.qr(torch.randn(d, options.core, device=options.device))[0] for d in module.weight.shape
            ]
            spaces[name] = CoreSpace(*bases)
            point[name] = 0.01 * torch.randn(options.core, options.core, device=options.device)
    batches = []
    for _ in range(options.batches):
        ids = torch.randint(0, options.vocabulary, (options.batch, options.seq))
        labels = ids.clone()
        labels[:, : options.seq // 2] = -100
        batches.append(Batch(ids, torch.ones_like(ids), labels))
    return model, spaces, point, batches


def plain(model: Any, batches: list[Batch]) -> None:
    """Forward pass, log-likelihood of the response, and the gradient with respect to the embeddings' output."""
    for batch in batches:
        moved = batch.to(model.device)
        inputs = model.get_input_embeddings()(moved.input_ids).requires_grad_(True)
        logits = model(inputs_embeds=inputs, attention_mask=moved.attention_mask, use_cache=False).logits
        loss = -torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), moved.labels[:, 1:].flatten(), reduction="sum"
        )
        torch.autograd.grad(loss, inputs)


@torch.no_grad()
def likelihood(model: Any, batches: list[Batch]) -> None:
    """Forward pass and log-likelihood of the response: an evaluation that scores given answers."""
    for batch in batches:
        moved = batch.to(model.device)
        logits = model(moved.input_ids, attention_mask=moved.attention_mask, use_cache=False).logits
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), moved.labels[:, 1:].flatten(), reduction="sum"
        )


@torch.no_grad()
def generation(model: Any, batches: list[Batch]) -> None:
    """As many tokens as the response has, written greedily after the prompt: an evaluation that reads answers."""
    for batch in batches:
        moved = batch.to(model.device)
        prompt = int((moved.labels[0] == -100).sum())
        length = moved.input_ids.shape[1] - prompt
        model.generate(
            moved.input_ids[:, :prompt],
            attention_mask=moved.attention_mask[:, :prompt],
            do_sample=False,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=0,
        )


def main() -> None:
    """Run the comparison and write one table."""
    options = parse()
    torch.set_num_threads(options.threads)
    model, spaces, point, batches = build(options)
    tasks: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(model, batches),
        "likelihood": lambda: likelihood(model, batches),
        "generation": lambda: generation(model, batches),
    }
    for structure in STRUCTURES:
        for where, cores in (("base", None), ("merged", point)):
            tasks[f"{structure} @ {where}"] = lambda structure=structure, cores=cores: compute_fim(
                model, spaces, batches, point=cores, structure=structure, estimator="empirical"
            )
    memory = {name: peak_memory(task, options.device) for name, task in tasks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    shuffler = random.Random(options.seed)
    for _ in range(options.rounds):
        for name in shuffler.sample(list(tasks), len(tasks)):
            seconds[name].append(timed(tasks[name], options.device))
    weights = sum(space.left.shape[0] * space.d_in for space in spaces.values())
    where = torch.cuda.get_device_name() if options.device != "cpu" else f"CPU, {options.threads} thread(s)"
    sizes = ", ".join(f"{name} {value}" for name, value in vars(options).items() if name != "out")
    head = (
        f"{_HEADING}\ntorch {torch.__version__}, {platform.machine()}, {where}; {sizes};\n{len(spaces)} modules, ΔW of "
        f"all of them would take {weights * 4 / 2**20:.0f} MiB in float32.\n\n"
    )
    rows = []
    for name, runs in seconds.items():
        row = [name, f"{median(runs):.3f}"]
        for other in _AGAINST:
            ratio, low, high = interval([a / b for a, b in zip(runs, seconds[other], strict=True)])
            row.append(f"{ratio:.3f} [{low:.3f}, {high:.3f}]")
        rows.append([*row, f"{memory[name] - memory['plain']:.1f}"])
    columns = ["", "seconds", *(f"× {name}" for name in _AGAINST), "extra MiB"]
    write_page(options.out, head + markdown_table(rows, columns), {"seconds": seconds, "peak_mib": memory})


if __name__ == "__main__":
    main()
