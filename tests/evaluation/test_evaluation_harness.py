"""The runner of the evaluation: it asks what lm-evaluation-harness alone would ask, and of the adapter that it names.

The models are the lab's: small, real, with answers that are right word for word; the oracle is lm-evaluation-harness.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from sst_merge.errors import AdapterError, BaseModelError, ConfigError, DataError
from sst_merge.evaluation import ModelSettings, check_adapters, evaluate_models, find_adapters
from sst_merge.evaluation.answers import AnswerStore
from sst_merge.evaluation.hf import HuggingFaceModels
from sst_merge.evaluation.loading import load_suites
from sst_merge.evaluation.silence_libraries import quiet_libraries
from sst_merge.lora_utils import BaseModelIndex
from sst_merge.suites import get_suites
from sst_merge.worlds.lab import Lab


@pytest.mark.parametrize("kind", ["options", "generation"])
def test_answers_equal_lm_evaluation_harness_alone_bit_for_bit(
    open_model: Any,
    stand_in: Any,
    lab: Lab,
    base: str,
    adapters: dict[str, Path],
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # It describes the machine and its packages by several programs, which takes longer than the answers.
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)
    suite = stand_in() if kind == "options" else get_suites(("lab_task_reverse",))[0]
    with quiet_libraries():
        (loaded,) = load_suites([suite], samples=40, seed=0)
        models, served = open_model(base)
        checked = check_adapters({"safety": adapters["safety"]}, BaseModelIndex.load(base))
        models.use(checked[0])
        served.store = AnswerStore(tmp_path / "answers.jsonl", {})
        ours = loaded.ask(served, "safety", chat_template=True, allow_code=False)
        (fresh,) = load_suites([suite], samples=40, seed=0)
        alone = HFLM(base, peft=str(adapters["safety"]), device="cpu", dtype="float32", batch_size=16)
        results = evaluator.simple_evaluate(
            alone,
            tasks=list(fresh.tasks.values()),
            task_manager=TaskManager(include_defaults=False),  # it would read 13,000 files of tasks that are not asked
            bootstrap_iters=0,
            apply_chat_template=True,
            log_samples=True,
        )
    (logged,) = results["samples"].values()
    logged = sorted(logged, key=lambda sample: sample["doc_id"])
    assert len(ours) == len(logged) == 40
    if kind == "generation":
        assert [record.response for record in ours] == [sample["resps"][0][0] for sample in logged]
    else:
        assert [record.scores["correct"] for record in ours] == [sample["acc"] for sample in logged]
        kept = list(served.store._answers.values())
        theirs = [list(answer[0]) for sample in logged for answer in sample["resps"]]
        assert sorted(map(tuple, kept)) == sorted(map(tuple, theirs))


def test_adapters_share_requests_and_tokens(
    open_model: Any, stand_in: Any, base: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    with quiet_libraries():
        (loaded,) = load_suites([stand_in()], samples=40, seed=0)
        models, served = open_model(base)
        checked = check_adapters(adapters, BaseModelIndex.load(base))
        calls, encode = [], models.lm.tokenizer.encode
        models.lm.tokenizer.encode = lambda *a, **k: calls.append(a) or encode(*a, **k)
        counts = []
        for number, adapter in enumerate([None, *checked]):
            models.use(adapter)
            served.store = AnswerStore(tmp_path / f"{number}.jsonl", {})
            loaded.ask(served, str(number), chat_template=True, allow_code=False)
            counts.append(len(calls))
        texts = [call[0] for call in calls]
    assert counts[0] > 0
    assert counts == [counts[0]] * 3, "the second and third model tokenised again"
    # Four options share a context: it is tokenised once, not four times.
    assert len(texts) == len(set(texts))


def test_the_base_comes_back_bit_for_bit(open_model: Any, base: str, adapters: dict[str, Path], tmp_path: Path) -> None:
    with quiet_libraries():
        models, _ = open_model(base)
        before = {name: value.clone() for name, value in models.lm.model.state_dict().items()}
        for adapter in [*check_adapters(adapters, BaseModelIndex.load(base)), None]:
            models.use(adapter)
        after = models.lm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def zero_b(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in tensors.items()}


def test_an_adapter_that_changes_nothing_is_an_error_unless_allowed(
    cpu: Any, copy_adapter: Any, base: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    idle = {"idle": copy_adapter(adapters["safety"], tmp_path / "idle", zero_b)}
    suites = get_suites(("lab_facts",))
    with pytest.raises(AdapterError, match=r"'idle'.*exactly zero.*--allow-noop"):
        evaluate_models(base, idle, suites, tmp_path / "out", samples=8, settings=cpu)
    run = evaluate_models(base, idle, suites, tmp_path / "out", samples=8, settings=cpu, allow_noop=True)
    responses = {name: [r.response for r in run.records[name, "lab_facts"]] for name in ("base", "idle")}
    assert responses["base"] == responses["idle"]


def test_an_adapter_too_small_for_the_type_is_an_error(
    cpu: Any, copy_adapter: Any, base: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    def tiny(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: (v.float() * 1e-12 if "lora_B" in k else v.float()) for k, v in tensors.items()}

    small = {"small": copy_adapter(adapters["safety"], tmp_path / "small", tiny)}
    with pytest.raises(AdapterError, match=r"'small'.*exactly the base's logits.*not applied"):
        evaluate_models(base, small, get_suites(("lab_facts",)), tmp_path / "out", samples=8, settings=cpu)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_an_adapter_that_peft_ignores_is_an_error(
    cpu: Any, base: str, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    real = peft.PeftModel.from_pretrained

    def forgetful(model: Any, path: str, **options: Any) -> Any:
        loaded = real(model, path, **options)
        for name, parameter in loaded.named_parameters():
            if "layers.1.mlp.up_proj.lora_A" in name:
                parameter.data.normal_()
        return loaded

    monkeypatch.setattr(peft.PeftModel, "from_pretrained", forgetful)
    with pytest.raises(AdapterError, match=r"'safety'.*layers\.1\.mlp\.up_proj.*did not load"):
        evaluate_models(base, adapters, get_suites(("lab_facts",)), tmp_path / "out", samples=8, settings=cpu)


def test_layers_without_tensors_are_an_error(
    cpu: Any, copy_adapter: Any, base: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    def without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value for key, value in tensors.items() if "layers.0.mlp.up_proj" not in key}

    partial = {"partial": copy_adapter(adapters["safety"], tmp_path / "partial", without_one)}
    with pytest.raises(AdapterError, match=r"'partial'.*without tensors: model\.layers\.0\.mlp\.up_proj"):
        evaluate_models(base, partial, get_suites(("lab_facts",)), tmp_path / "out", samples=8, settings=cpu)


def test_an_adapter_of_another_base_is_refused_before_the_model_is_loaded(
    cpu: Any, copy_adapter: Any, base: str, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wider(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: torch.cat([v, v], 1) if k.endswith("q_proj.lora_A.weight") else v for k, v in tensors.items()}

    monkeypatch.setattr(HuggingFaceModels, "__init__", lambda *a: pytest.fail("the model was loaded"))
    other = {"other": copy_adapter(adapters["safety"], tmp_path / "other", wider)}
    with pytest.raises(BaseModelError, match="trained on another base"):
        evaluate_models(base, other, get_suites(("lab_facts",)), tmp_path / "out", settings=cpu)


def test_what_is_refused_is_refused_first(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HuggingFaceModels, "__init__", lambda *a: pytest.fail("the model was loaded"))
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="no suite"):
        evaluate_models(base, {}, [], out)
    with pytest.raises(ConfigError, match=r"humaneval runs code .* --allow-code-execution"):
        evaluate_models(base, {}, get_suites(("humaneval",)), out)
    with pytest.raises(DataError, match=r"'xstest_safe' needs a judge of refusal"):
        evaluate_models(base, {}, get_suites(("xstest_safe",)), out)
    with pytest.raises(ConfigError, match=r"own\.jsonl: no suite asks these prompts; add --suite drift"):
        evaluate_models(base, {}, get_suites(("lab_facts",)), out, driftcheck="own.jsonl")
    with pytest.raises(ConfigError, match=r"--attempts 20: no suite draws several answers \(found: lab_facts\)"):
        evaluate_models(base, {}, get_suites(("lab_facts",)), out, attempts=20)
    with pytest.raises(ConfigError, match=r"'lab_tasks_samples' reports pass@10, .* give --attempts 10 or more"):
        evaluate_models(base, {}, get_suites(("lab_tasks_samples",)), out, attempts=9)
    with pytest.raises(ConfigError, match=r"--reference 'skil': no such model \(did you mean 'skill'\?\); this"):
        evaluate_models(base, {"skill": tmp_path}, get_suites(("lab_facts",)), out, reference="skil")
    with pytest.raises(BaseModelError, match=r"no usable configuration|expected the folder"):
        evaluate_models(str(tmp_path), {}, get_suites(("lab_facts",)), out)
    with pytest.raises(DataError, match=r"lacks .* words of the lab's world of seed 1"):
        evaluate_models(base, {}, get_suites(("lab_facts",)), out, world_seed=1)
    assert not out.exists()


def test_folders_of_adapters(copy_adapter: Any, adapters: dict[str, Path], tmp_path: Path) -> None:
    for name in ("merges/ties", "merges/sst/mu1"):
        copy_adapter(adapters["safety"], tmp_path / name)
    found = find_adapters(
        [("skill", adapters["reverse"]), (None, tmp_path / "merges" / "ties")], [tmp_path / "merges/sst"]
    )
    assert list(found) == ["skill", "ties", "mu1"]
    with pytest.raises(ConfigError, match="the base model's own"):
        find_adapters([("base", adapters["reverse"])])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AdapterError, match="neither it nor a folder below it"):
        find_adapters([(None, empty)])
    with pytest.raises(AdapterError, match="no such folder"):
        find_adapters([(None, tmp_path / "nothing")])
    merges = tmp_path / "merges"
    assert list(find_adapters([("all", merges)])) == ["all/sst/mu1", "all/ties"]
    with pytest.raises(ConfigError, match=r"two adapters are called 'sst/mu1'"):
        find_adapters([], [merges, merges])


def test_bars_and_logs_are_silent_inside_and_back_outside(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from tqdm import tqdm

    with quiet_libraries():
        list(tqdm(range(3), disable=False))
        logging.getLogger("lm_eval.api.task").warning("no")
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""
    list(tqdm(range(3)))
    assert "3/3" in capsys.readouterr().err


def test_automatic_batches_are_tried_on_a_prompt_that_fits(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search that a GPU makes, run on the CPU: it starts at 64 prompts, which fit."""
    with quiet_libraries():
        models = HuggingFaceModels(base, ModelSettings(device="cpu"))
        assert models.batch_size == 16
        tried = []
        call = models.lm._model_call
        monkeypatch.setattr(models.lm, "_model_call", lambda ids, **options: tried.append(ids.shape) or call(ids))
        monkeypatch.setattr(models.lm, "_device", torch.device("cpu"))
        length = models.lm.max_length - 1
        assert models.lm._detect_batch_size([("", [1] * length, [1])], 0) == 64
    assert set(tried) == {(64, length)}
