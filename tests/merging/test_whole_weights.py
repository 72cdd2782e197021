"""Heads and grown embeddings in a merge: what the output claims it holds, with PEFT as the judge of what opens."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sst_merge.errors import AdapterError, MergeError
from sst_merge.lora_utils import Adapter, LoraFactors, write_adapter
from sst_merge.merging import MergeSettings, merge, merge_to_folder, plan_merge
from sst_merge.reporting import model_card

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
HEADS = {
    "SEQ_CLS": ("AutoModelForSequenceClassification", "classifier", "text-classification"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "classifier", "token-classification"),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "qa_outputs", "question-answering"),
}


def bert(task: str) -> Any:
    import transformers

    labels = 2 if task == "QUESTION_ANS" else 3  # start and end of an answer
    config = transformers.BertConfig(**SIZES, num_labels=labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, HEADS[task][0]).from_config(config).eval()


def reward_model() -> Any:
    """As TRL trains one: a decoder whose head is called ``score``."""
    import transformers

    config = transformers.LlamaConfig(**SIZES, num_labels=1, pad_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForSequenceClassification(config).eval()


def classifier(build: Any, folder: Path, seed: int, task: str = "SEQ_CLS", model: Any = None, **options: Any) -> Path:
    """An adapter with a head of its own, saved by PEFT."""
    options = {"targets": ["query", "value"], "task_type": task, **options}
    adapted = build.peft_model(model or bert(task), seed=seed, **options)
    build.randomise(adapted, seed=seed, only="modules_to_save")
    adapted.save_pretrained(folder)
    return folder


def loaded(folder: Path, model: Any) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def outputs(model: Any) -> torch.Tensor:
    tokens = torch.arange(12).reshape(2, 6) % 31
    with torch.no_grad():
        found = model(input_ids=tokens)
    return found.start_logits if "start_logits" in found else found.logits


@pytest.mark.parametrize("task", HEADS)
def test_a_head_of_one_adapter_is_carried(build: Any, relative_error: Any, task: str, tmp_path: Path) -> None:
    one = classifier(build, tmp_path / "one", 1, task)
    result = merge([Adapter.load(one)])
    out = result.save(tmp_path / "out", extra_files={"README.md": model_card})
    assert relative_error(outputs(loaded(out, bert(task))), outputs(loaded(one, bert(task)))) < 1e-5
    config = json.loads((out / CONFIG).read_text())
    head = HEADS[task][1]
    assert config["task_type"] == task and config["modules_to_save"] == [head]
    assert any(f"'{head}.bias' and 1 more, of adapter 'one'" in warning for warning in result.report.warnings)
    card = (out / "README.md").read_text()
    assert f"{HEADS[task][0]}.from_pretrained" in card and f"pipeline_tag: {HEADS[task][2]}" in card
    assert "2 whole weights beside them" in card and "vllm serve" not in card


def test_equal_heads_are_carried_and_other_ones_are_chosen_by_name(build: Any, tmp_path: Path) -> None:
    one, two = (Adapter.load(classifier(build, tmp_path / f"c{i}", i), name=f"c{i}") for i in (1, 2))
    with pytest.raises(MergeError, match=r"the values of 'classifier.bias'.*--modules-to-save-from c1.*--drop-modules"):
        plan_merge([one, two])
    with pytest.raises(MergeError, match="modules_to_save_from is 'c3', but the adapters are c1, c2"):
        plan_merge([one, two], settings=MergeSettings(modules_to_save_from="c3"))
    merge_to_folder(plan_merge([one, two], settings=MergeSettings(modules_to_save_from="c2")), tmp_path / "chosen")
    chosen, second = load_file(tmp_path / "chosen" / WEIGHTS), load_file(tmp_path / "c2" / WEIGHTS)
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(chosen[f"base_model.model.{name}"], second[f"base_model.model.{name}"])

    # The same head in a wider type is the same head.
    first = load_file(tmp_path / "c1" / WEIGHTS)
    same = {key: (value.double() if "classifier" in key else second[key]) for key, value in first.items()}
    save_file(same, tmp_path / "c2" / WEIGHTS)
    agreed = merge([one, Adapter.load(tmp_path / "c2")])
    assert agreed.report.to_dict()["whole_weights"]["classifier.weight"] == {"adapter": "c1", "shape": [3, 16]}
    loaded(agreed.save(tmp_path / "agreed"), bert("SEQ_CLS"))


@pytest.mark.parametrize("task", HEADS)
def test_a_head_that_is_left_out_leaves_no_claim(build: Any, relative_error: Any, task: str, tmp_path: Path) -> None:
    folders = [classifier(build, tmp_path / f"c{i}", i, task) for i in (1, 2)]
    adapters = [Adapter.load(folder, drop_modules_to_save=True) for folder in folders]
    result = merge(adapters)
    out = result.save(tmp_path / "out", extra_files={"README.md": model_card})
    config = json.loads((out / CONFIG).read_text())
    assert config["task_type"] is None and config["modules_to_save"] is None
    assert any(f"task type {task} needs a head" in warning for warning in result.report.warnings)
    # With the base's own head, and the sum of both updates below it.
    expected = build.add_deltas(build.add_deltas(bert(task), adapters[0]), adapters[1])
    assert relative_error(outputs(loaded(out, bert(task))), outputs(expected)) < 1e-5
    card = (out / "README.md").read_text()
    assert "is not in this folder" in card and HEADS[task][0] in card and "pipeline_tag" not in card


def test_a_reward_model_keeps_its_task_beside_a_language_model(build: Any, relative_error: Any, tmp_path: Path) -> None:
    """The other adapter has no head and comes first; the type whose head is in the output is the right one."""
    import transformers

    reward = classifier(build, tmp_path / "reward", 1, model=reward_model(), targets=["q_proj"])
    plain = transformers.LlamaForCausalLM(reward_model().config)
    skill = build.adapter_folder(plain, tmp_path / "skill", targets=["q_proj"], task_type="CAUSAL_LM")
    adapters = [Adapter.load(skill), Adapter.load(reward)]
    result = merge(adapters)
    out = result.save(tmp_path / "out")
    assert json.loads((out / CONFIG).read_text())["task_type"] == "SEQ_CLS"
    with_head = reward_model()
    with_head.score.load_state_dict({"weight": load_file(reward / WEIGHTS)["base_model.model.score.weight"]})
    expected = build.add_deltas(build.add_deltas(with_head, adapters[0]), adapters[1])
    assert relative_error(outputs(loaded(out, reward_model())), outputs(expected)) < 1e-5


def test_grown_embeddings_are_carried_and_a_card_says_how_many_rows(
    build: Any, relative_error: Any, tmp_path: Path
) -> None:
    def grown(seed: int) -> Any:
        model = build.tiny_model("llama")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.resize_token_embeddings(40, mean_resizing=False)
        return model

    saved = ["embed_tokens", "lm_head"]
    one = classifier(build, tmp_path / "one", 1, "CAUSAL_LM", grown(1), targets=["q_proj"], modules_to_save=saved)
    two = build.adapter_folder(build.tiny_model("llama"), tmp_path / "two", seed=2, targets=["v_proj"])
    adapters = [Adapter.load(one), Adapter.load(two)]
    out = merge(adapters).save(tmp_path / "out", dtype=torch.bfloat16, extra_files={"README.md": model_card})
    assert "40 rows (model.embed_tokens.weight)" in (out / "README.md").read_text()
    written, given = load_file(out / WEIGHTS), load_file(one / WEIGHTS)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(written[f"base_model.model.{name}"], given[f"base_model.model.{name}"])
    # New rows of another seed: only what the folder holds can make both equal.
    expected = build.add_deltas(loaded(one, grown(7)).merge_and_unload(), adapters[1])
    assert relative_error(build.logits(loaded(out, grown(7))), build.logits(expected)) < 2e-2
    exact = merge(adapters).save(tmp_path / "exact")
    assert relative_error(build.logits(loaded(exact, grown(7))), build.logits(expected)) < 1e-5


def test_factors_and_a_whole_weight_of_one_module_are_refused(build: Any, tmp_path: Path) -> None:
    model = build.tiny_model("llama")
    whole = Adapter.load(
        build.adapter_folder(model, tmp_path / "whole", targets=["q_proj"], modules_to_save=["lm_head"])
    )
    factors = Adapter.load(build.adapter_folder(model, tmp_path / "factors", targets=["q_proj", "lm_head"]))
    with pytest.raises(MergeError, match=r"'lm_head' has LoRA factors in one adapter and a whole weight in another"):
        plan_merge([whole, factors])


def test_factors_of_a_head_and_the_head_of_another_adapter_are_refused(build: Any, tmp_path: Path) -> None:
    """PEFT would make no LoRA layer of ``pooler.score``, since ``score`` is a head of this task."""
    head = Adapter.load(classifier(build, tmp_path / "head", 1))
    other = Adapter.from_factors({"pooler.score": LoraFactors(torch.ones(4, 1), torch.ones(1, 4))}, name="other")
    with pytest.raises(MergeError, match=r"'pooler\.score' has LoRA factors in one adapter"):
        plan_merge([head, other])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn, torch.int64])
def test_a_head_of_any_type_is_copied_and_a_damaged_one_refused(build: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = classifier(build, tmp_path / "one", 1)
    tensors, key = load_file(folder / WEIGHTS), "base_model.model.classifier.bias"
    tensors[key] = torch.arange(3).to(dtype)
    save_file(tensors, folder / WEIGHTS)
    out = merge([Adapter.load(folder)]).save(tmp_path / "out")
    copied = load_file(out / WEIGHTS)[key]
    assert copied.dtype == dtype and copied.tolist() == [0, 1, 2]
    if not dtype.is_floating_point:
        return
    tensors[key] = torch.tensor([1.0, torch.nan, 2.0]).to(dtype)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(AdapterError, match=r"classifier\.bias' holds 1 NaN or Inf of 3 values"):
        merge([Adapter.load(folder)])


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS', but there are no tensors of classifier or score"),
        ({"task_type": "CHAT"}, "task_type is 'CHAT', but PEFT knows CAUSAL_LM"),
        ({"task_type": None, "modules_to_save": ("lm_head",)}, "holds no whole weight of any of them"),
    ],
)
def test_what_peft_could_not_open_gets_no_name(claims: dict[str, Any], message: str, tmp_path: Path) -> None:
    from peft import PeftConfig, PeftModel

    factors = LoraFactors(torch.ones(16, 1), torch.ones(1, 16))
    update = {"bert.encoder.layer.0.attention.self.query": factors}
    with pytest.raises(AdapterError, match=message):
        write_adapter(tmp_path / "out", update.items(), base_model=None, **claims)
    assert list(tmp_path.iterdir()) == []
    # PEFT agrees: the same folder with the claim written in by hand does not open.
    out = write_adapter(tmp_path / "out", update.items(), base_model=None, task_type=None)
    PeftConfig.from_pretrained(out)
    config = json.loads((out / CONFIG).read_text()) | {k: list(v) if k[0] == "m" else v for k, v in claims.items()}
    config["modules_to_save"] = ["classifier"] if config["modules_to_save"] else None
    (out / CONFIG).write_text(json.dumps(config))
    with pytest.raises((KeyError, ValueError)):
        PeftModel.from_pretrained(bert("SEQ_CLS"), out)


def test_a_task_type_of_nobody_is_not_written(tmp_path: Path) -> None:
    factors = LoraFactors(torch.ones(4, 1), torch.ones(1, 4))
    odd = Adapter.from_factors({"x": factors}, name="odd", task_type="CHAT")
    result = merge([odd])
    assert any("'CHAT' is none of PEFT's; null is written" in warning for warning in result.report.warnings)
    assert Adapter.load(result.save(tmp_path / "out")).task_type is None
