"""Recipes of the adapters, tried on dev prompts: trains one adapter with some settings changed, and says what it does.

Each call trains one adapter of the world and adds a line to ``figures.json`` in the folder of ``--out``; the page shows
all lines. What is asked of an expert: its own task far above the base, ordinary prompts still answered. Of a safety
adapter: harmful prompts refused, ordinary ones not, look-alikes as rarely as such a model can.

    export SST_MERGE_DATA=DATA
    python studies/smollm2_recipes/measure.py --out studies/smollm2_recipes safety own=350 learning_rate=6e-4
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options, versions, write_page

from sst_merge.experiments.outcome_texts import bits
from sst_merge.lora_utils import Adapter
from sst_merge.measures.intervals import rate
from sst_merge.reporting import figure_text, markdown_table
from sst_merge.worlds.outcomes import task_kind
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.text.text_world import TextWorld
from sst_merge.worlds.updates import UpdatedModel, adapters_update
from sst_merge.worlds.world import SAFETY, UNALIGNED, Artefact

ROOT = Path(__file__).resolve().parents[2]
WORLD = ROOT / "configs" / "worlds" / "smollm2.yaml"
ROWS = ("own", "instructions", "wrapped")
ASKED = {"harmful": 100, "jailbreak": 48, "lookalike": 60, "ordinary": 60}
"""Kind → dev prompts asked of a safety adapter; experts are asked 150 of their task and 48 ordinary ones."""


def tried(adapter: str, changed: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train and ask.

    Args:
        adapter: of the world.
        changed: settings of its role, and of the role's recipe.
        seed: of the training.

    Returns:
        Plain values: settings, seconds of training, kind → outcomes as text.
    """
    content = yaml.safe_load(WORLD.read_text(encoding="utf-8"))
    role = content["roles"]["safety" if adapter == SAFETY else "expert"]
    for name, value in changed.items():
        (role if name in ROWS else role["recipe"])[name] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "world.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        world = open_world("text", file=str(file))
    assert isinstance(world, TextWorld)
    path = world.make(Artefact(UNALIGNED, adapter, seed))
    seconds = json.loads((path / "training_report.json").read_text(encoding="utf-8"))["seconds"]
    asked = ASKED if adapter == SAFETY else {task_kind(adapter): 150, "ordinary": 48}
    update, model = adapters_update([Adapter.load(path)]), world.model(UNALIGNED)
    with UpdatedModel(model, list(update)) as updated:
        updated.set(update)
        found = {kind: world.outcomes(model, world.questions(kind, n, split="dev")) for kind, n in asked.items()}
    # Of what should be answered the refusals are told, of the others what is right.
    texts = {kind: bits(of.said()[0] if kind in {"lookalike", "ordinary"} else of.right) for kind, of in found.items()}
    rates = {kind: [text.count("1"), len(text)] for kind, text in texts.items()}
    return {"adapter": adapter, "seed": seed, "settings": settings(role), "seconds": round(seconds), "rates": rates}


def settings(role: dict[str, Any]) -> dict[str, Any]:
    """What differs between recipes, in one flat table."""
    recipe = role["recipe"]
    kept = ("learning_rate", "epochs", "batch_size", "max_length")
    return {name: role.get(name, 0) for name in ROWS[:2]} | {name: recipe[name] for name in kept}


def page(lines: list[dict[str, Any]]) -> str:
    """All that was tried, as Markdown.

    Args:
        lines: of ``figures.json``.

    Returns:
        Tables of safety adapters and of experts.
    """
    parts = [
        "# SmolLM2-135M-Instruct: recipes of its adapters",
        "Rates on dev prompts with 95 % Wilson intervals, one seed; of look-alikes and ordinary prompts the share that "
        f"is refused. Rank 8, alpha 16. {versions()}. Made by `studies/smollm2_recipes/measure.py`; what is in use "
        "stands in `configs/worlds/smollm2.yaml`.",
    ]
    for title, own in (
        ("Safety", [line for line in lines if line["adapter"] == SAFETY]),
        ("Experts", [line for line in lines if line["adapter"] != SAFETY]),
    ):
        if own:
            parts.append(f"## {title}\n\n{table(own)}")
    parts += dict.fromkeys(line["note"] for line in lines if "note" in line)
    return "\n\n".join(parts)


def table(lines: list[dict[str, Any]]) -> str:
    """One row a recipe."""
    kinds = list(dict.fromkeys("task" if k.startswith("task:") else k for line in lines for k in line["rates"]))
    rows = []
    for line in lines:
        named = {"task" if kind.startswith("task:") else kind: rate(*counts) for kind, counts in line["rates"].items()}
        rows.append([
            line["adapter"],
            *line["settings"].values(),
            line["seconds"],
            *(figure_text(named.get(kind), digits=2) for kind in kinds),
        ])
    return markdown_table(rows, ["Adapter", *lines[0]["settings"], "Seconds", *kinds])


def main() -> None:
    """Try one recipe, or write the page of all."""
    parser = study_options(__doc__)
    parser.add_argument("adapter", nargs="?", help="of the world; without it only the page is written")
    parser.add_argument("changed", nargs="*", metavar="NAME=VALUE", help="rows of the role or fields of its recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", help="below the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = options.out / "figures.json"
    lines = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    if options.adapter is not None:
        changed = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in options.changed)}
        note = {} if options.note is None else {"note": options.note}
        lines.append(tried(options.adapter, changed, options.seed) | note)
    write_page(options.out, page(lines), lines)


if __name__ == "__main__":
    main()
