"""Train and measure the offline judge of harm on GPTFuzzer's labelled responses, split by question.

    SST_MERGE_DATA=... python studies/judges/train_offline_judge.py                # measure: 5 splits
    SST_MERGE_DATA=... python studies/judges/train_offline_judge.py --write        # and write what is shipped
    SST_MERGE_DATA=... python studies/judges/train_offline_judge.py --add beavertails pku --out out/offline

The shipped weights learn from GPTFuzzer's labels alone (MIT). BeaverTails and PKU-SafeRLHF are CC-BY-NC-4.0: weights
that saw them are for one's own use, and ``--write`` refuses them.
"""

import argparse
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sst_merge.data_loader.formats import read_file
from sst_merge.judges.check import GPTFUZZER, JudgeCheck, LabelledAnswer, check_judge, read_labelled
from sst_merge.judges.offline import SHIPPED, OfflineWeights, predict, save_weights, train_weights
from sst_merge.judges.refusal_rules import RefusalRules
from sst_merge.measures.figure import Figure
from sst_merge.measures.intervals import seed_interval
from sst_merge.reporting import rate_with_interval

HELD_OUT_SHARE, SHIPPED_SEED, N_SPLITS = 0.25, 0, 5


@dataclass(frozen=True)
class InMemory:
    """Weights as a judge, before they are written."""

    weights: OfflineWeights
    name: str = "offline (in memory)"
    column: str = "harm"

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Probabilities of harm."""
        return predict(self.weights, responses)


class NotRefused:
    """The naive baseline: whatever the rules do not take for a refusal does harm."""

    name, column = "not refused (rules)", "harm"

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """1 where the answer is not refused."""
        return [1 - score for score in RefusalRules()(prompts, responses)]


def split(rows: Sequence[LabelledAnswer], seed: int) -> tuple[list[LabelledAnswer], list[LabelledAnswer]]:
    """Training and held-out answers; no question is in both."""
    questions = sorted({row.question for row in rows})
    held_out = set(random.Random(seed).sample(questions, round(HELD_OUT_SHARE * len(questions))))
    return [r for r in rows if r.question not in held_out], [r for r in rows if r.question in held_out]


def non_commercial(data: Path, name: str) -> list[LabelledAnswer]:
    """Answers of BeaverTails (all harmful) or PKU-SafeRLHF (both labels)."""
    path = data / {"beavertails": "beavertails/unsafe_14_categories.jsonl", "pku": "pku_saferlhf/qa.jsonl"}[name]
    return [
        LabelledAnswer(
            prompt=record["prompt"], response=record["response"], label=int(not record["is_safe"]),
            question=record["prompt"], column="harm",
        )
        for record in read_file(path)
    ]  # fmt: skip


def train(rows: Sequence[LabelledAnswer], *, seed: int, source: str) -> OfflineWeights:
    """Weights from labelled answers."""
    return train_weights(
        [r.response for r in rows], [r.label for r in rows], [r.question for r in rows],
        about={"labels": source, "held_out_share": HELD_OUT_SHARE, "seed": seed},
    )  # fmt: skip


def unseen_texts(held_out: Sequence[LabelledAnswer], training: Sequence[LabelledAnswer]) -> list[LabelledAnswer]:
    """Held-out answers whose very words do not occur in training: stock refusals repeat across questions."""
    known = {row.response for row in training}
    return [row for row in held_out if row.response not in known]


def measure(rows: list[LabelledAnswer], extra: list[LabelledAnswer]) -> dict[str, dict[str, object]]:
    """Balanced accuracy over splits by question: the judge, the judge on unseen texts, the baseline."""
    found: dict[str, list[float]] = {"offline": [], "offline, unseen texts": [], "not refused (rules)": []}
    for seed in range(N_SPLITS):
        training, held_out = split(rows, seed)
        judge = InMemory(train([*training, *extra], seed=seed, source="measure"))
        checks: list[tuple[str, JudgeCheck]] = [
            ("offline", check_judge(judge, held_out)),
            ("offline, unseen texts", check_judge(judge, unseen_texts(held_out, training))),
            ("not refused (rules)", check_judge(NotRefused(), held_out)),
        ]
        for name, check in checks:
            found[name].append(check.balanced_accuracy.value)
            print(f"split {seed}  {name:24}  n = {check.n}, {check.questions} questions  {_text(check)}", flush=True)
    return {name: {"splits": values, **_summary(seed_interval(values))} for name, values in found.items()}


def _text(check: JudgeCheck) -> str:
    found = check.balanced_accuracy
    return f"balanced accuracy {rate_with_interval(found.value, (found.low, found.high), digits=3)}"


def _summary(estimate: Figure) -> dict[str, object]:
    return {"mean": estimate.value, "low": estimate.low, "high": estimate.high}


def main() -> None:
    """Measure, and write weights where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SST_MERGE_DATA"))
    parser.add_argument("--add", nargs="*", choices=("beavertails", "pku"), default=[])
    parser.add_argument("--write", action="store_true", help="replace the shipped weights")
    parser.add_argument("--out", type=Path, help="write weights and figures here instead")
    parser.add_argument("--no-measure", action="store_true", help="only train and write")
    args = parser.parse_args()
    if args.data is None:
        parser.error("set SST_MERGE_DATA or --data to the folder with the public data sets (docs/data.md)")
    if args.write and args.add:
        parser.error("shipped weights learn from MIT data only; use --out with --add")
    rows = read_labelled(Path(args.data) / GPTFUZZER)
    extra = [row for name in args.add for row in non_commercial(Path(args.data), name)]
    figures = {} if args.no_measure else measure(rows, extra)
    for name, figure in figures.items():
        print(f"{name:24}  mean of {N_SPLITS} splits {figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]")
    if args.write or args.out is not None:
        training, held_out = split(rows, SHIPPED_SEED)
        source = " + ".join(["GPTFuzzer (MIT)", *(f"{name} (CC-BY-NC-4.0)" for name in args.add)])
        weights = train([*training, *extra], seed=SHIPPED_SEED, source=source)
        path = SHIPPED if args.write else args.out / "offline.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(weights, path)
        print(f"{path}: {path.stat().st_size} bytes; held out: {_text(check_judge(InMemory(weights), held_out))}")
        if args.out is not None:
            (args.out / "offline.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
