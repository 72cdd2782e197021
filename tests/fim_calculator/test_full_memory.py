"""Passes that save memory find what others find: halved after a full memory, computed twice, cut by tokens."""

from typing import Any

import pytest
import torch
from tests.full_memory import full_memory

from sst_merge.core_space import CoreSpace
from sst_merge.errors import BaseModelError
from sst_merge.fim_calculator import Fisher, TokenBudget, build_spaces, compute_fim, divergences
from sst_merge.fim_calculator.capture import CoreModel
from sst_merge.fim_calculator.structures.sums import SampleSums
from sst_merge.methods.parts import input_moments as input_moments_module
from sst_merge.methods.parts.input_moments import input_moments
from sst_merge.methods.parts.input_sketches import input_sketches
from sst_merge.sst.teacher_objective import Teacher, TeacherObjective

MODULES = {"model.layers.0.self_attn.q_proj": (16, 16), "model.layers.1.mlp.down_proj": (16, 24)}


@pytest.fixture(scope="module")
def model(build: Any) -> Any:
    return build.tiny_model("llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def spaces(build: Any) -> dict[str, CoreSpace]:
    return build_spaces([build.random_adapter(MODULES, name="one", rank=2)], dtype=torch.float64)


def collected(model: Any, spaces: Any, batches: Any, structure: str, **more: Any) -> Fisher:
    if more.get("estimator") == "sampled":
        more["generator"] = torch.Generator().manual_seed(5)
    return compute_fim(model, spaces, batches, structure=structure, **more)


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
@pytest.mark.parametrize("structure", ["diagonal", "kronecker", "block", "lowrank"])
def test_a_fisher_goes_on_in_halves_with_the_same_result(
    oracle: Any, relative_error: Any, model: Any, spaces: Any, structure: str, forward: bool
) -> None:
    samples = sorted(oracle.random_samples(7), key=lambda sample: len(sample[0]))
    batches, estimator = oracle.batched(samples, 4), "empirical" if structure == "block" else "sampled"
    whole = collected(model, spaces, batches, structure, estimator=estimator)
    with full_memory(model, above=2, forward=forward) as seen, pytest.warns(UserWarning, match="with 4 samples of"):
        found = collected(model, spaces, batches, structure, estimator=estimator)
    longest = [max(len(ids) for ids, _ in part) for part in (samples[:4], samples[:2], samples[2:4])]
    # The second batch is cut before it is tried.
    assert seen[:3] == list(zip((4, 2, 2), longest, strict=True))
    assert sum(rows for rows, _ in seen[3:]) == 3 and max(rows * length for rows, length in seen[1:]) <= 2 * longest[0]
    assert found.samples == whole.samples == 7
    for name, layer in found.layers.items():
        assert relative_error(layer.dense(), whole.layers[name].dense()) < 1e-12
        assert layer.counts() == whole.layers[name].counts()
    if structure == "block":
        rows = oracle.sample_gradients(model, spaces, samples)
        for name, layer in found.layers.items():
            assert relative_error(layer.dense(), oracle.dense_fisher(rows[name])) < 1e-9


def test_forward_passes_go_on_in_halves(oracle: Any, model: Any, spaces: Any) -> None:
    batches = oracle.batched(oracle.random_samples(6), 4, side="left")
    cores = [{name: scale * torch.ones(space.shape).double() for name, space in spaces.items()} for scale in (0.1, 0.3)]
    with CoreModel(model, spaces) as attached:
        expected = divergences(attached, cores, {}, batches)
        with full_memory(model, above=3, forward=True), pytest.warns(UserWarning, match="the same result"):
            found = divergences(attached, cores, {}, batches)
    assert found == pytest.approx(expected, rel=1e-12) and min(found) > 0


def moments_one_by_one(model: Any, samples: Any) -> dict[str, torch.Tensor]:
    """E[x xᵀ] of every module from each sample alone, without padding."""
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in MODULES}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: rows[name].append(args[0][0]))
        for name in MODULES
    ]
    for ids, _ in samples:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(of).T @ torch.cat(of) / len(torch.cat(of)) for name, of in rows.items()}


@pytest.mark.parametrize("above", [3, 2, 1])
def test_inputs_are_shown_once_however_often_memory_is_full(
    oracle: Any, relative_error: Any, model: Any, spaces: Any, above: int
) -> None:
    """The first layer's module has added its inputs when the second layer finds memory full."""
    samples = oracle.random_samples(9)
    batches, expected, done = oracle.batched(samples, 4), moments_one_by_one(model, samples), list[int]()
    ask = lambda: input_moments(model, spaces, batches, list(MODULES), progress=done.append)  # noqa: E731
    assert max(relative_error(of, expected[m]) for m, of in ask().items()) < 1e-9
    done.clear()
    with (
        full_memory(model, above=above, forward=True, layer=1) as seen,
        pytest.warns(UserWarning, match="with 4 samples"),
    ):
        found = ask()
    # In one layer or in the other every sample was read; what is too wide is cut again.
    assert seen[0][0] == 4 and len(seen) > 3 and done[-1] == 9
    assert max(relative_error(of, expected[m]) for m, of in found.items()) < 1e-9


def test_a_sketch_whose_sums_find_memory_full_is_the_same(
    oracle: Any, relative_error: Any, model: Any, spaces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = oracle.batched(oracle.random_samples(9), 4)

    def sketches() -> Any:
        more = torch.Generator().manual_seed(1)
        return input_sketches(model, spaces, batches, list(MODULES), columns=3, generator=more)

    expected, wide, tries = sketches(), input_moments_module.in_float64, list[int]()

    def full(rows: torch.Tensor) -> torch.Tensor:
        tries.append(len(rows))
        # The second module's turn, in the first batch and then in its second half: nobody shows the first one's again.
        if len(tries) in (2, 4):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return wide(rows)

    monkeypatch.setattr(input_moments_module, "in_float64", full)
    with pytest.warns(UserWarning, match="with 2 samples"):
        found = sketches()
    assert found.keys() == expected.keys()
    for name, sketch in found.items():
        assert relative_error(sketch.image, expected[name].image) < 1e-9
        assert relative_error(sketch.diagonal, expected[name].diagonal) < 1e-9


def test_passes_that_somebody_else_counts_end_where_memory_is_full(oracle: Any, model: Any, spaces: Any) -> None:
    batches = oracle.batched(oracle.random_samples(4), 4)
    with full_memory(model, above=2, forward=True, layer=1), pytest.raises(torch.OutOfMemoryError):
        input_moments(model, spaces, batches, list(MODULES), halves=False)


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
@pytest.mark.parametrize("above", [9, 3, 1])
def test_teachers_go_on_in_halves_with_the_same_gradient(
    oracle: Any, relative_error: Any, model: Any, spaces: Any, above: int, forward: bool
) -> None:
    """Lessons that go through the model together are taken apart, then their prompts."""
    generator = torch.Generator().manual_seed(4)
    cores = [
        {m: torch.randn(space.shape, generator=generator, dtype=torch.float64) for m, space in spaces.items()}
        for _ in range(2)
    ]
    one, two = (tuple(oracle.batched(oracle.random_samples(n), 8)) for n in (11, 5))
    teachers = [Teacher("one", cores[0], 0.7, one, ()), Teacher("base", None, 0.3, two, ())]
    with CoreModel(model, spaces) as attached:
        plain = TeacherObjective(attached, teachers, "fit", top=5)
        divergences, gradient = plain.divergences(cores[1]), plain.gradient(cores[1], {0: 2.0, 1: 1.0, 2: 1.0})
        objective = TeacherObjective(attached, teachers, "fit", top=5)
        with full_memory(model, above=above, forward=forward) as seen, pytest.warns(UserWarning, match="same result"):
            if forward:
                assert objective.divergences(cores[1]) == pytest.approx(divergences, rel=1e-9)
            found = objective.gradient(cores[1], {0: 2.0, 1: 1.0, 2: 1.0})
    assert max(rows for rows, _ in seen) > above
    assert min(divergences) > 0 and max(relative_error(found[m], gradient[m]) for m in spaces) < 1e-9


def test_a_single_sample_that_is_too_much_is_refused(oracle: Any, model: Any, spaces: Any) -> None:
    batch = oracle.pad(oracle.random_samples(2))
    length = batch.input_ids.shape[1]
    with full_memory(model, above=0, forward=True), pytest.warns(UserWarning), pytest.raises(BaseModelError) as refused:
        collected(model, spaces, [batch], "kronecker")
    assert "memory is full with a single sample of" in str(refused.value) and "lower max_length" in str(refused.value)
    assert length >= int(str(refused.value).split("sample of ")[1].split()[0])


def test_sums_that_cannot_forget_and_other_errors_end_the_pass(
    oracle: Any, model: Any, spaces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = oracle.pad(oracle.random_samples(4))
    monkeypatch.setattr(SampleSums, "forget_batch", lambda _: False)
    with full_memory(model, above=2, forward=True), pytest.raises(torch.OutOfMemoryError):
        collected(model, spaces, [batch], "diagonal")

    def broken(_: Any) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(TokenBudget().each(batch, broken))

    def full(_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    # Where other processes compute parts of the layers they wait in the whole batch.
    with pytest.raises(torch.OutOfMemoryError):
        list(TokenBudget(halves=False).each(batch, full))


def test_layers_that_are_computed_twice_are_recorded_once(
    oracle: Any, relative_error: Any, build: Any, spaces: Any
) -> None:
    model = build.tiny_model("llama", dtype=torch.float64)
    samples, calls = oracle.random_samples(5), {"layer": 0, "record": 0}
    batches = oracle.batched(samples, 3)

    def count(*_: object) -> None:
        calls["layer"] += 1

    model.gradient_checkpointing_enable()
    model.model.layers[1].mlp.register_forward_pre_hook(count)
    found = collected(model, spaces, batches, "block", estimator="empirical")
    assert calls["layer"] == 2 * len(batches)
    assert "forward" not in vars(model.model.layers[0]) and not any(module.training for module in model.modules())
    rows = oracle.sample_gradients(build.tiny_model("llama", dtype=torch.float64), spaces, samples)
    for name, layer in found.layers.items():
        assert relative_error(layer.dense(), oracle.dense_fisher(rows[name])) < 1e-9
    record = lambda *_: calls.update(record=calls["record"] + 1)  # noqa: E731
    with CoreModel(model, spaces) as attached, attached.recording(record):
        attached.backward(attached.answers(batches[0]).logits.sum())
    assert calls["record"] == len(spaces)
