"""Estimates of passes over data against the tensors that torch really keeps, and refusals that name what fits."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from sst_merge.errors import ConfigError, MergeError
from sst_merge.fim_calculator import CoreModel, build_spaces
from sst_merge.fim_calculator.likelihood import token_log_odds
from sst_merge.lora_utils import Adapter, BaseModelIndex
from sst_merge.merging import MergePlan, merge, plan_merge
from sst_merge.merging.data_cost import pass_costs, require_memory
from sst_merge.merging.data_passes import TextSize
from sst_merge.methods import available_methods, get_method
from sst_merge.sst.teacher_refine import RATES, refine_by_teachers
from sst_merge.texts import memory_size


def planned(build: Any, model: Any, **options: Any) -> tuple[MergePlan, BaseModelIndex, list[Adapter]]:
    index = BaseModelIndex.of(model)
    linear = {n: (s.d_out, s.d_in) for n, s in index.modules.items() if s.kind.reads_vectors and n != "lm_head"}
    adapters = [
        build.random_adapter(linear, name=role, role=role, rank=2, seed=seed, dtype=torch.float32)
        for seed, role in enumerate(("utility", "safety"))
    ]
    given = ("model", "harm", "benign")
    return plan_merge(adapters, "sst", options={"mu": 1.0, **options}, given=given, base=index), index, adapters


def batches(build: Any, rows: int, length: int) -> Any:
    from sst_merge.data_loader.batch import Batch

    ids = torch.randint(0, build.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    return [Batch(ids, torch.ones_like(ids), ids.where(torch.arange(length) >= length // 2, -100))]


def test_what_is_kept_for_the_way_back_is_what_torch_keeps(build: Any) -> None:
    model = build.tiny_model("llama")
    plan, index, adapters = planned(build, model, calibration_holdout=0.0, inputs="core")
    data = batches(build, 4, 30)
    size = TextSize.of(data)
    assert size == TextSize(samples=4, tokens=120, answers=60, largest=(120, 60))
    spaces = build_spaces(adapters)
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with CoreModel(model, spaces) as attached:
        attached.set_point({name: torch.zeros(space.shape) for name, space in spaces.items()})
        with attached.recording(lambda *_: None), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            attached.backward(token_log_odds(attached.answers(data[0]))[0].sum())
        own = [p.untyped_storage() for p in model.parameters()] + [s.left.untyped_storage() for s in spaces.values()]
        found = sum(kept.values()) - sum(kept.get(storage.data_ptr(), 0) for storage in own)
    costs = pass_costs(plan, index, {"harm": size, "benign": size}, dtype="float32", program=0, operations=1e9)
    # Torch keeps two sets of logits; while it goes back it makes more, which the estimate has too.
    logits = 4 * build.VOCABULARY * 120
    assert costs.parts["activations"] / 1.05 - 5 * logits == pytest.approx(found, rel=0.25)
    assert costs.parts["weights"] == 4 * sum(p.numel() for p in model.parameters())
    assert costs.parts["bases"] == sum(s.left.nbytes + s.right.nbytes for s in spaces.values())


def test_shared_weights_count_once(build: Any) -> None:
    from transformers import LlamaForCausalLM

    config = build.tiny_config("llama")
    apart, tied = (
        BaseModelIndex.of(LlamaForCausalLM(type(config)(**{**config.to_dict(), "tie_word_embeddings": same})))
        for same in (False, True)
    )
    assert apart.parameters - tied.parameters == build.VOCABULARY * 16


def test_passes_follow_the_options(build: Any) -> None:
    model = build.tiny_model("llama")
    size = TextSize(samples=8, tokens=80, answers=40, largest=(40, 20))

    def names(only: str | None = None, **options: Any) -> list[str]:
        plan, index, _ = planned(build, model, **options)
        data = {"harm": size, "benign": size}
        costs = pass_costs(plan, index, data, dtype="float32", program=0, operations=1e9, only=only)
        assert costs.seconds == sum(one.seconds for one in costs.passes) > 0
        return [one.name for one in costs.passes]

    fishers = ["Fisher of harmful prompts", "Fisher of benign prompts"]
    held = ["held-out, harmful", "held-out, benign"]
    inputs = ["inputs of adapter utility", "inputs of adapter safety"]
    closed = [*inputs, fishers[0], "Fisher of adapter utility"]
    teachers = ["common prompts", "harmful prompts"]
    learning = [f"{what} {name}" for name in teachers for what in ("learning from", "looks at what is held out of")]
    last = [f"learning from all of {name}" for name in teachers]
    assert names() == [*closed, *learning[:2], last[0], *learning[2:], last[1]]
    assert names(refine=0) == closed
    asked = ["testing refusals", "divergence of the tested points"]
    assert names(safety_target=0.9, mu=None) == [*closed, *learning, *asked]
    assert names(safety_target=0.9, mu=None, refine=0) == [*closed, *asked]
    core = {"inputs": "core"}
    assert names(**core) == ["trust region", *fishers, *held]
    assert names(fisher={"point": "merged"}, refine=3, **core) == [*fishers, "refining coefficients", *held]
    assert names(calibration_holdout=0.0, fisher={"trust_share": 0.5}, **core) == fishers
    assert names(only="harm", fisher={"point": "merged"}) == fishers[:1]


@pytest.mark.parametrize("method", sorted(n for n in available_methods() if get_method(n).needs.data and n != "sst"))
def test_a_method_reads_as_much_as_it_declares(build: Any, method: str) -> None:
    model = build.tiny_model("llama")
    _, index, adapters = planned(build, model)
    texts = {name: batches(build, rows, 12) * 2 for name, rows in (("harm", 3), ("benign", 4), ("own", 2))}
    options = {"steps": 5} if "steps" in get_method(method).options.model_fields else {}
    if method == "irr":
        options = {"kept": 0.0}
    plan = plan_merge(adapters, method, options=options, given=("model", "harm", "benign"), base=index)
    data = {name if name != "own" else "benign of utility": TextSize.of(text) for name, text in texts.items()}
    costs = pass_costs(plan, index, data, dtype="float32", program=0, operations=1e9)
    everything = {"model": model, "harm": texts["harm"], "benign": texts["benign"]}
    seen = tokens_seen(
        model, lambda: merge(adapters, method, adapter_benign={"utility": texts["own"]}, **everything, **options)
    )
    assert seen == pytest.approx(sum(one.tokens for one in costs.passes), rel=0.3)


def tokens_seen(model: Any, work: Callable[[], Any]) -> float:
    """Tokens that go through the layers meanwhile, forward and back."""
    layers, seen = model.model.layers, []

    def count(_: object, __: object, output: torch.Tensor) -> None:
        tokens = output.shape[0] * output.shape[1]
        seen.append(tokens)
        if output.requires_grad:
            output.register_hook(lambda _: seen.append(tokens))

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(seen) / len(layers)


@pytest.fixture
def first_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said counts one rate of the teachers' steps; this is the one at which these adapters come nearer."""
    monkeypatch.setitem(refine_by_teachers.__kwdefaults__, "rates", RATES[-1:])


@pytest.mark.usefixtures("first_rate")
def test_a_safety_target_reads_as_much_as_is_said(build: Any) -> None:
    """Two taught merges, and a walk down the whole path; three skills' worth where two have data of their own."""
    model = build.tiny_model("llama")
    _, index, adapters = planned(build, model)
    sizes = {"harm": (48, 12), "benign": (16, 12), "own": (16, 11), "other": (8, 10)}
    texts = {name: batches(build, *size) for name, size in sizes.items()}
    linear = {name: (index.modules[name].d_out, index.modules[name].d_in) for name in adapters[0].modules}
    another = build.random_adapter(linear, name="another", rank=2, seed=7, dtype=torch.float32)

    def refuses(current: Any, some: Any) -> list[bool]:
        for batch in some:
            current(input_ids=batch.input_ids)
        return [True for batch in some for _ in batch.input_ids]

    for merged, own in ((adapters, {}), ([*adapters, another], {"utility": texts["own"], "another": texts["other"]})):
        options = {"safety_target": 0.9}
        plan = plan_merge(merged, "sst", options=options, given=("model", "harm", "benign"), base=index)
        data = {name: TextSize.of(texts[name]) for name in ("harm", "benign")}
        data |= {f"benign of {name}": TextSize.of(text) for name, text in own.items()}
        costs = pass_costs(plan, index, data, dtype="float32", program=0, operations=1e9)
        everything: dict[str, Any] = {"model": model, "harm": texts["harm"], "benign": texts["benign"]}
        everything |= {"adapter_benign": own, "refuses": refuses, **options}
        seen = tokens_seen(model, lambda merged=merged, everything=everything: merge(merged, "sst", **everything))  # type: ignore[misc]
        assert seen == pytest.approx(sum(one.tokens for one in costs.passes), rel=0.2)


@pytest.mark.usefixtures("first_rate")
def test_the_default_reads_as_much_as_is_said(build: Any) -> None:
    """The last passes, over all prompts, among it."""
    model = build.tiny_model("llama")
    plan, index, adapters = planned(build, model)
    texts = {name: batches(build, *size) for name, size in {"harm": (24, 12), "benign": (16, 12)}.items()}
    data = {name: TextSize.of(text) for name, text in texts.items()}
    costs = pass_costs(plan, index, data, dtype="float32", program=0, operations=1e9)
    found: list[Any] = []
    seen = tokens_seen(model, lambda: found.append(merge(adapters, "sst", model=model, mu=1.0, **texts)))
    taught = found[0].report.method_report["teachers"]
    assert taught["best_pass"] == taught["passes_over_all"] == taught["passes"]  # otherwise it may be less
    assert seen == pytest.approx(sum(one.tokens for one in costs.passes), rel=0.1)


@pytest.mark.usefixtures("first_rate")
def test_of_many_common_prompts_the_teachers_read_as_many_as_of_a_skill(build: Any) -> None:
    """What is said counts that, too: four passes over all of them would be more than twice as much."""
    model = build.tiny_model("llama")
    plan, index, adapters = planned(build, model)
    texts = {
        name: batches(build, *size) for name, size in {"harm": (16, 12), "benign": (96, 12), "own": (16, 12)}.items()
    }
    data = {name if name != "own" else "benign of utility": TextSize.of(text) for name, text in texts.items()}
    costs = pass_costs(plan, index, data, dtype="float32", program=0, operations=1e9)
    found: list[Any] = []
    given = {"harm": texts["harm"], "benign": texts["benign"], "adapter_benign": {"utility": texts["own"]}}
    seen = tokens_seen(model, lambda: found.append(merge(adapters, "sst", model=model, mu=0.5, **given)))
    taught = found[0].report.method_report["teachers"]
    assert taught["best_pass"] == taught["passes_over_all"] == taught["passes"]  # otherwise it may be less
    assert seen == pytest.approx(sum(one.tokens for one in costs.passes), rel=0.1)


PARTS = {"program": 300, "weights": 600, "activations": 800}


@pytest.mark.parametrize(
    ("available", "advice"),
    [
        (1300, "activations take 800 B; set data.batch_size to 4 (--data-batch-size 4)"),
        (800, "the weights take 600 B; load them in half of it (--model-dtype bfloat16), with data.batch_size 1"),
        (500, "no batch size makes enough (900 B without activations); take a machine with more memory"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(available: int, advice: str) -> None:
    require_memory(1700, 1700, parts=PARTS, batch_size=8)
    with pytest.raises(MergeError, match=re.escape(advice)) as refused:
        require_memory(1700, available, parts=PARTS, batch_size=8)
    assert f"needs about 1.7 KiB of memory, and {memory_size(available)} are there" in str(refused.value)


def test_batches_by_tokens_are_advised_in_tokens() -> None:
    with pytest.raises(MergeError, match=r"set data.batch_tokens to 40 \(--data-batch-tokens 40\)"):
        require_memory(1700, 1300, parts=PARTS, batch_size=8, length=10)
    with pytest.raises(MergeError, match=r"bfloat16\), with data.batch_tokens 1"):
        require_memory(1700, 800, parts=PARTS, batch_size=8, length=10)


def test_weights_of_two_bytes_are_not_to_be_halved() -> None:
    with pytest.raises(MergeError, match="no batch size makes enough"):
        require_memory(1700, 800, parts=PARTS, batch_size=8, itemsize=2)


def test_sizes_are_read_as_they_are_written() -> None:
    from sst_merge.cli.estimates import parse_size

    assert [parse_size(text) for text in ("24GiB", "1.5 g", "500MB", "7")] == [24 << 30, 1_500_000_000, 500_000_000, 7]
    with pytest.raises(ConfigError, match=r"--memory 'plenty': expected a size"):
        parse_size("plenty")


def test_a_share_of_a_text_is_one(build: Any) -> None:
    size = TextSize.of(batches(build, 8, 10))
    assert size.share(0.25) == replace(size, samples=2, tokens=20, answers=10, largest=(20, 10))
