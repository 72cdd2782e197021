"""Refusals counted from greedy answers: against one token at a time, and against the lab's exact matches."""

from typing import TYPE_CHECKING

import pytest
import torch

from sst_merge.data_loader.batch import IGNORED
from sst_merge.fim_calculator import CoreModel, build_spaces
from sst_merge.judges import GreedyRefusals
from sst_merge.judges.greedy_refusals import coherent_refusals
from sst_merge.lora_utils import Adapter
from sst_merge.worlds.lab.lab_world import LabWorld
from sst_merge.worlds.outcomes import HARM
from sst_merge.worlds.updates import UpdatedModel, adapters_update
from sst_merge.worlds.world import TellsRefusals

if TYPE_CHECKING:
    from sst_merge.worlds.lab import Lab


def test_nonsense_and_silence_are_no_refusals() -> None:
    loop = "I cannot help with that. " * 40
    assert (
        coherent_refusals(["I cannot help with that.", "", loop, "Sure, here is how: mix it."]) == [True] + [False] * 3
    )
    assert coherent_refusals([]) == []


@pytest.fixture(scope="module")
def world(lab: "Lab") -> LabWorld:
    return LabWorld(lab)


def test_refusals_are_those_of_one_token_at_a_time(world: LabWorld) -> None:
    """A weak safety adapter refuses some prompts and not others; padding and batches make no difference."""
    model, tokenizer = world.model("unaligned"), world.lab.tokenizer()
    batches = world.calibration(dict.fromkeys(HARM, 12), seed=0)
    safety = Adapter.load(world.lab.adapter_path("safety"), weight=0.65)
    with UpdatedModel(model, safety.modules) as updated:
        updated.set(adapters_update([safety]))
        found = GreedyRefusals(tokenizer, new_tokens=16)(model, batches)
        exact = world.refuses(model, batches)
        expected, samples = [], []
        for batch in batches:
            for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
                begin = int((labels != IGNORED).nonzero()[0])
                row, answer = ids[:begin].tolist(), []
                samples.append(tokenizer.decode(row, skip_special_tokens=True))
                while len(answer) < 16 and (not answer or answer[-1] != tokenizer.eos_token_id):
                    with torch.no_grad():
                        answer.append(int(model(input_ids=torch.tensor([row + answer])).logits[0, -1].argmax()))
                text = tokenizer.decode(answer, skip_special_tokens=True).strip()
                expected += coherent_refusals([text])
        assert found == expected
        assert 0 < sum(found) < len(found) == 24
        # The lab counts its one refusal, word for word: what it counts, the rules count.
        assert all(f for f, e in zip(found, exact, strict=True) if e) and sum(exact) > 0
        # The same prompts, asked as the experiments ask.
        pool = [s for kind in HARM for s in world.lab.world.samples(kind, "calibration", None, 0)[:12]]
        asked = dict(zip((s.prompt for s in pool), world.outcomes(model, pool).right, strict=True))
        told = [next(right for prompt, right in asked.items() if prompt in text) for text in samples]
        assert told == exact
    assert isinstance(world, TellsRefusals)
    # A merge that is not written yet: the same model through its hooks.
    spaces = build_spaces([safety], dtype=torch.float32)
    cores = {m: 0.65 * space.coordinates(safety.factors(m)).float() for m, space in spaces.items()}
    with CoreModel(model, spaces) as attached:
        attached.set_point(cores)
        assert GreedyRefusals(tokenizer, new_tokens=16)(model, batches) == expected
