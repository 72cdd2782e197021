"""The whole path of ``sst-merge evaluate`` on real questions, with a real (and tiny) model.

    SST_MERGE_DATA=... python studies/real_evaluation/real_evaluation.py --out studies/real_evaluation

stories260K with two adapters (Alpaca; safe answers) trained by the functions of
``studies/real_checkpoint/real_checkpoint.py`` and their merge by Task Arithmetic, on rows of MMLU, HumanEval,
BeaverTails and XSTest. A model of 260,032 parameters that writes children's stories knows nothing of all this: scores
near chance are the right result. What is shown is that every stage runs on real data, twice with the same numbers.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from sst_merge.evaluation import EvaluationRun, ModelSettings, evaluate_models
from sst_merge.judges import make_judges
from sst_merge.lora_utils import Adapter
from sst_merge.merging import merge
from sst_merge.reporting import markdown_table
from sst_merge.reporting.evaluation_tables import overview_table
from sst_merge.suites import get_suites

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from real_checkpoint.real_checkpoint import load_text, train_adapter
from study import add_data, study_options, versions, write_page

DECIDING = ("steps", "samples", "max_new_tokens", "seed")
SUITES = ("mmlu", "humaneval", "beavertails", "xstest_safe", "xstest_unsafe")


def make_adapters(data: Path, out: Path, *, steps: int, seed: int) -> dict[str, Path]:
    """Two trained adapters and their plain sum."""
    base, text = data / "models/stories260K", load_text(data, seed, n_test=1)
    folders = {name: out / name for name in ("skill", "safety", "merged")}
    train_adapter(base, text["skill train"], folders["skill"], steps=steps, seed=seed)
    train_adapter(base, text["safety train"], folders["safety"], steps=steps, seed=seed + 1)
    merged = merge([Adapter.load(folders[name]) for name in ("skill", "safety")], method="task_arithmetic")
    merged.save(folders["merged"], force=True)
    return folders


def run(data: Path, out: Path, *, steps: int, samples: int, max_new_tokens: int, seed: int) -> EvaluationRun:
    """Make the adapters and evaluate base, both adapters and merge.

    Args:
        data: folder with the public data sets and the checkpoint.
        out: folder to fill.
        steps: training steps of each adapter.
        samples: rows of each suite.
        max_new_tokens: of each answer.
        seed: of training, of the draw of samples.

    Returns:
        The evaluation, as written to ``out/evaluation``.
    """
    out.mkdir(parents=True, exist_ok=True)
    return evaluate_models(
        str(data / "models/stories260K"),
        make_adapters(data, out / "adapters", steps=steps, seed=seed),
        get_suites(SUITES),
        out / "evaluation",
        judges=make_judges(("rules", "incoherence", "offline")),
        samples=samples,
        max_new_tokens=max_new_tokens,
        settings=ModelSettings(device="cpu", dtype="float32", batch_size=32, seed=seed),
        allow_code=True,
        force=True,
    )


def command(args: argparse.Namespace) -> str:
    """The command that gives the same figures: everything that decides them, and no place of this machine."""
    flags = [f"--{name.replace('_', '-')} {getattr(args, name)}" for name in DECIDING]
    return " ".join(["SST_MERGE_DATA=… python studies/real_evaluation/real_evaluation.py", *flags])


def page(found: EvaluationRun, seconds: float, made_by: str) -> str:
    """What the committed page says, whole: nothing is to be added by hand."""
    facts, table = found.provenance, overview_table(found.summary)
    suites = facts["suites"]
    asked = ", ".join(f"{name} {item['samples']}" for name, item in suites.items())
    lengths = {settings["max_gen_toks"] for item in suites.values() for settings in item["decoding"].values()}
    columns, rows = table.columns, table.cells
    turned = [[columns[i], *(row[i] for row in rows)] for i in range(1, len(columns))]
    libraries = facts["versions"]
    judges = ", ".join(name for names in facts["judges"].values() for name in names)
    head = (
        "# The whole evaluation on real questions\n\n"
        "stories260K (260,032 parameters, writes children's stories) with a skill adapter (Alpaca), a safety adapter "
        "(safe answers to harmful prompts) and their plain sum, asked rows of the real sets. **Scores are near chance, "
        "as they must be**: four options give 0.25 on MMLU, and a model that never saw code solves nothing. No figure "
        "here says anything about merging; the point is that loading, prompting, generation, option scoring, the code "
        "sandbox, the judges, the applied check and the report run from end to end on real data.\n\n"
        f"Rows asked: {asked}; greedy answers of at most {', '.join(map(str, sorted(lengths)))} tokens, prompts longer "
        f"than the model's {facts['model']['max_length']} positions cut on the left (5-shot MMLU mostly is); seed "
        f"{facts['seed']}. Judges: {judges}. {versions()}, lm_eval {libraries['lm_eval']}, transformers "
        f"{libraries['transformers']}, {seconds:.0f} "
        f"processor seconds with training. Made by `{made_by}`.\n\n"
    )
    text = head + f"{table.caption}.\n\n" + markdown_table(turned, ["suite", *found.summary.models])
    if found.summary.warnings:
        text += "\n" + "\n".join(f"- {warning}" for warning in found.summary.warnings) + "\n"
    return text


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("out/real_evaluation"), help="folder for adapters and answers"
    )
    add_data(parser)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = run(args.data, args.work, **{name: getattr(args, name) for name in DECIDING})
    # The machine is shared as a rule, and time on the wall says little there.
    text = page(found, sum(os.times()[:4]), command(args))
    write_page(args.out, text, json.loads(found.summary.to_json()))


if __name__ == "__main__":
    main()
