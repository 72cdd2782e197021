"""Estimated against measured memory of merges with data: largest resident size of a process, shape by shape.

    python studies/estimates/measure.py --out studies/estimates
    python studies/estimates/measure.py --out studies/estimates --keep --shapes --base SMOLLM2_FOLDER

Random Llamas and two random adapters are written to a temporary folder; every merge by ``sst`` (random tokens as data,
μ given; ``inputs: core`` without teachers, or all of the default with data of the skill's own) runs in a fork of this
process, which has imported everything and computed nothing. With ``--base FOLDER`` a real base is measured as well,
such as SmolLM2's. The estimate is that of ``merge --dry-run``.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  # what a merge imports belongs to the program
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from sst_merge.data_loader import load_base_model
from sst_merge.data_loader.batch import Batch
from sst_merge.lora_utils import Adapter, BaseModelIndex, LoraFactors
from sst_merge.machine import peak_memory, resident_memory
from sst_merge.merging import MergeInputs, MergePlan, merge_in_memory, plan_merge
from sst_merge.merging.data_cost import pass_costs
from sst_merge.merging.data_passes import TextSize
from sst_merge.reporting import markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options, versions, write_page

OWN = "benign of utility"


@dataclass(frozen=True)
class Shape:
    """One merge: a base, adapters and data; by all of the default, or its closed form with ``inputs: core``."""

    name: str
    hidden: int = 512
    inner: int = 1376
    layers: int = 2
    vocabulary: int = 32000
    rank: int = 16
    batch: int = 8
    length: int = 64
    samples: int = 8
    dtype: str = "float32"
    structure: str = "kronecker"
    default: bool = False


LLAMA_1B = {"hidden": 2048, "inner": 8192, "layers": 16, "vocabulary": 128256}  # of Llama-3.2-1B
SHAPES = (
    Shape("small", hidden=128, inner=344, vocabulary=2000),
    Shape("hidden 512"),
    Shape("more layers", layers=12, length=24),
    Shape("half precision", dtype="bfloat16"),
    Shape("long texts", hidden=128, inner=512, length=1024, vocabulary=8000),
    Shape("many at once", hidden=128, inner=512, batch=96, samples=96),
    Shape("wide vocabulary", hidden=256, inner=688, vocabulary=128000),
    Shape("rank 64", rank=64, length=24),
    Shape("block", rank=8, structure="block", length=24),
    Shape("1B", **LLAMA_1B, batch=4, length=32, samples=4),
    Shape("small, default", hidden=128, inner=344, vocabulary=2000, default=True),
    Shape("hidden 512, default", default=True),
    Shape("more layers, default", layers=12, length=24, default=True),
    Shape("many at once, default", hidden=128, inner=512, batch=96, samples=96, default=True),
    Shape("rank 64, default", rank=64, length=24, default=True),
    Shape("1B, default", **LLAMA_1B, batch=4, length=32, samples=4, default=True),
)


def config_of(shape: Shape) -> LlamaConfig:
    """A Llama of these sizes."""
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )


def base_of(shape: Shape, folder: Path) -> Path:
    """Its random weights, as transformers saves them, made in a fork."""
    forked(lambda: LlamaForCausalLM(config_of(shape)).to(getattr(torch, shape.dtype)).save_pretrained(folder))
    return folder


def planned(shape: Shape, base: Path | None) -> tuple[MergePlan, BaseModelIndex, dict[str, list[Batch]]]:
    """The merge: a skill and a safety adapter on all linear layers, random tokens of which the second half answers."""
    if base is None:
        with torch.device("meta"):
            index = BaseModelIndex.of(LlamaForCausalLM(config_of(shape)))
    else:
        index = BaseModelIndex.load(base)
    linear = {n: s for n, s in index.modules.items() if s.kind.reads_vectors and not n.endswith("lm_head")}
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator) * 0.02

    adapters = []
    for role in ("utility", "safety"):
        factors = {n: LoraFactors(normal(s.d_out, shape.rank), normal(shape.rank, s.d_in)) for n, s in linear.items()}
        adapters.append(Adapter.from_factors(factors, name=role, role=role))
    data = {}
    for kind in ("harm", "benign", *([OWN] if shape.default else [])):
        ids = torch.randint(0, shape.vocabulary, (shape.samples, shape.length), generator=generator)
        labels = ids.where(torch.arange(shape.length) >= shape.length // 2, -100)
        rows = range(0, shape.samples, shape.batch)
        data[kind] = [
            Batch(ids[i : i + shape.batch], torch.ones_like(ids[i : i + shape.batch]), labels[i : i + shape.batch])
            for i in rows
        ]
    core = {} if shape.default else {"inputs": "core", "refine": 0, "fisher": {"structure": shape.structure}}
    given = ("model", *data)
    plan = plan_merge(adapters, "sst", options={"mu": 1.0, **core}, given=given, base=index)
    return plan, index, data


def forked(task: Any) -> Any:
    """What a task returns in a fork of this process, as plain values."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, json.dumps(task()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("the fork failed")
    return json.loads(found)


def estimated(shape: Shape, base: Path | None, program: int) -> dict[str, int]:
    """What a dry run says of one merge."""
    plan, index, data = planned(shape, base)
    sizes = {kind: TextSize.of(batches) for kind, batches in data.items()}
    costs = pass_costs(plan, index, sizes, dtype=shape.dtype, program=program, operations=1e10)
    return {**costs.parts, "estimated": costs.bytes}


def measured(shape: Shape, base: Path) -> dict[str, int]:
    """One merge in this process: its size before, and at most."""
    plan, _, data = planned(shape, base)
    before = resident_memory()
    model = load_base_model(str(base), modules=list(plan.adapters[0].modules), dtype=shape.dtype, device="cpu")
    own = {"utility": data[OWN]} if shape.default else {}
    merge_in_memory(plan, MergeInputs(model=model, harm=data["harm"], benign=data["benign"], adapter_benign=own))
    return {"before": before, "measured": peak_memory()}


def main() -> None:
    """Measure every shape and write the page."""
    parser = study_options(__doc__)
    parser.add_argument("--shapes", nargs="*", default=[shape.name for shape in SHAPES])
    parser.add_argument("--base", type=Path, help="folder of a real base, which is measured as well")
    parser.add_argument("--keep", action="store_true", help="keep the rows in --out that are not measured now")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [(shape, None) for shape in SHAPES if shape.name in given.shapes]
    if given.base is not None:
        found = AutoConfig.from_pretrained(given.base)
        sizes = found.hidden_size, found.intermediate_size, found.num_hidden_layers, found.vocab_size
        for name, default in ((given.base.name, False), (f"{given.base.name}, default", True)):
            chosen.append((Shape(name, *sizes, batch=4, length=32, samples=4, default=default), given.base))
    rows = json.loads((given.out / "figures.json").read_text(encoding="utf-8")) if given.keep else []
    done = {row["shape"]["name"]: row for row in rows}
    for shape, base in chosen:
        with tempfile.TemporaryDirectory() as temporary:
            place = base or base_of(shape, Path(temporary) / "base")
            done[shape.name] = {"shape": asdict(shape), **forked(lambda s=shape, p=place: measured(s, p))}
            done[shape.name]["parts"] = estimated(shape, place, done[shape.name]["before"])
        write(given.out, done)
    write(given.out, done)


def write(out: Path, done: dict[str, dict[str, Any]]) -> None:
    """The page, as far as it is measured."""
    for row in done.values():
        # Rows that are kept are estimated by the code as it is; of a real base the shape alone is not enough.
        if Shape(**row["shape"]) in SHAPES:
            row["parts"] = estimated(Shape(**row["shape"]), None, row["before"])
    write_page(out, page(list(done.values())), list(done.values()))


def page(figures: list[dict[str, Any]]) -> str:
    """Markdown of all rows."""
    rows = []
    for row in figures:
        shape, parts = Shape(**row["shape"]), row["parts"]
        size = f"{shape.hidden} × {shape.layers}, {shape.vocabulary}, {shape.dtype}"
        text = f"{shape.samples} in batches of {shape.batch} × {shape.length}, rank {shape.rank}, {shape.structure}"
        names = "program", "weights", "bases", "statistics", "activations", "estimated"
        own = (parts["estimated"] - row["before"]) / (row["measured"] - row["before"]) - 1
        cells = [*(parts[name] for name in names), row["measured"]]
        off = parts["estimated"] / row["measured"] - 1
        rows.append([shape.name, size, text, *(f"{cell / 2**20:.0f}" for cell in cells), f"{off:+.0%}", f"{own:+.0%}"])
    columns = ["merge", "hidden × layers, vocabulary, type", "samples of a kind", "program", "weights", "bases"]
    columns += ["statistics", "activations", "estimated", "measured", "deviation", "of what the merge adds"]
    return (
        "# Estimated and measured memory\n\n"
        "What `merge --dry-run` says a merge by `sst` needs, and the largest resident size of the process that did it, "
        "in MiB.\nRows without *default* have `inputs: core` and no teachers; the others are as a user gets them, with "
        "as many prompts of the\nskill's own. Two adapters on all linear layers of a random Llama (or of the named "
        "base), random tokens of which half are\nanswers; one process of one thread. `program` is the process with "
        "everything imported, as measured before, and 32 MiB for\nwhat the first computation brings in; the last "
        "column leaves it out.\n"
        "The estimate's few constants (copies of logits, numbers kept a token, libraries) were set on the rows `small` "
        "to `many at once`,\nso those show how well one rule fits them all, and the others how well it foretells. "
        "Sketches of inputs,\nwhich `1B, default` takes, are counted since that row was measured (+20 % before, as if "
        "they were second moments).\n"
        f"{versions()}. Made by `studies/estimates/measure.py`.\n\n" + markdown_table(rows, columns)
    )


if __name__ == "__main__":
    main()
