"""Teachers: what they said is kept truly, J and its gradient are those of the whole model, and steps never go astray."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from sst_merge.data_loader.batch import Batch
from sst_merge.errors import DataError
from sst_merge.fim_calculator import CoreModel, build_spaces, role_patches
from sst_merge.lora_utils import Adapter, LoraFactors
from sst_merge.sst.teacher_objective import Teacher, TeacherObjective
from sst_merge.sst.top_distribution import TopDistribution

SHAPES = {"model.layers.0.self_attn.q_proj": (16, 16), "model.layers.1.mlp.down_proj": (16, 24)}


def some_batches(seed: int, n: int, *, vocabulary: int = 37, length: int = 7) -> tuple[Batch, ...]:
    """Answers of several lengths, prompts padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (n, length), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :3] = -100
    for i in range(0, n, 2):
        labels[i, 5:], mask[i, 5:] = -100, 0
    return (Batch(ids, mask, labels),)


@pytest.fixture(scope="module")
def model(build: Any) -> Any:
    return build.tiny_model("llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def adapters(build: Any) -> list[Adapter]:
    def scaled(name: str, seed: int, role: str) -> Adapter:
        raw = build.random_adapter(SHAPES, name=name, rank=2, seed=seed)
        factors = {m: LoraFactors(raw.factors(m).b * 0.1, raw.factors(m).a) for m in raw.modules}
        return Adapter.from_factors(factors, name=name, role=role)

    return [scaled("one", 11, "utility"), scaled("two", 22, "utility"), scaled("safe", 33, "safety")]


def dense_divergence(
    model: Any, spaces: Any, teacher: dict[str, Tensor] | None, cores: dict[str, Tensor], batches: Sequence[Batch]
) -> Tensor:
    """D_T(M; X) with ΔW formed, one prompt at a time, over the whole vocabulary."""

    def log_p(at: dict[str, Tensor] | None, ids: Tensor) -> Tensor:
        moved = {
            f"{m}.weight": model.get_submodule(m).weight + spaces[m].left @ core @ spaces[m].right.T
            for m, core in (at or {}).items()
        }
        return functional_call(model, moved, kwargs={"input_ids": ids}).logits[0, :-1].log_softmax(-1)

    found = []
    for batch in batches:
        for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
            kept = labels[1:][: int(mask.sum()) - 1] >= 0
            p, q = (log_p(at, ids[: int(mask.sum())][None])[kept] for at in (teacher, cores))
            found.append((p.exp() * (p - q)).sum(-1).mean())
    return torch.stack(found).mean()


@pytest.mark.parametrize("vocabulary", [5, 64, 65, 200])
def test_kept_distributions_give_the_divergence_of_their_partition(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    log_p, log_q = (
        (3 * torch.randn(6, vocabulary, generator=generator, dtype=torch.float64)).log_softmax(-1) for _ in range(2)
    )
    full = (log_p.exp() * (log_p - log_q)).sum(-1)
    found = TopDistribution.of(log_p).divergence(log_q)
    by_hand = []
    for p, q in zip(log_p.exp(), log_q.exp(), strict=True):
        order = p.argsort(descending=True)
        parts = [[int(token)] for token in order[:64]] + ([order[64:].tolist()] if vocabulary > 64 else [])
        pairs = [(float(p[part].sum()), float(q[part].sum())) for part in parts]
        by_hand.append(sum(a * torch.tensor(a / b, dtype=torch.float64).log() for a, b in pairs))
    torch.testing.assert_close(found, torch.stack(by_hand), rtol=1e-10, atol=1e-12)
    assert bool((found <= full + 1e-12).all())
    if vocabulary <= 65:
        torch.testing.assert_close(found, full, rtol=1e-10, atol=1e-12)
    else:
        assert float(full.sum() - found.sum()) > 1e-3


def test_a_certain_teacher_leaves_no_mass_and_no_nan() -> None:
    """float32, one token with all the mass: the rest is 0 · log 0."""
    logits = torch.zeros(2, 100)
    logits[:, 7] = 200.0
    pupil = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    divergence = TopDistribution.of(logits.log_softmax(-1)).divergence(pupil.log_softmax(-1))
    torch.testing.assert_close(divergence, -pupil.log_softmax(-1)[:, 7])
    (gradient,) = torch.autograd.grad(divergence.sum(), pupil)
    assert bool(torch.isfinite(gradient).all())


def test_objective_and_gradient_are_those_of_the_whole_model(relative_error: Any, model: Any, adapters: Any) -> None:
    spaces = build_spaces(adapters, dtype=torch.float64)
    safe = role_patches(adapters, spaces).safety
    one = role_patches(adapters[:1], spaces).utility
    teachers = [
        Teacher("one", one, 0.7, some_batches(1, 20), ()),
        Teacher("safe", safe, 2.0, some_batches(2, 5), ()),
        Teacher("base", None, 0.3, some_batches(3, 4), ()),
    ]
    start = {m: 0.5 * one[m] + 0.4 * safe[m] for m in spaces}
    variables = {m: core.clone().requires_grad_(True) for m, core in start.items()}
    parts = [dense_divergence(model, spaces, t.cores, variables, t.fit) for t in teachers]
    total = torch.stack([t.weight * part for t, part in zip(teachers, parts, strict=True)]).sum()
    expected = dict(zip(variables, torch.autograd.grad(total, list(variables.values())), strict=True))
    with CoreModel(model, spaces) as attached:
        objective = TeacherObjective(attached, teachers, "fit")
        assert len(objective.lessons) == 4  # twenty prompts are two lessons
        found = objective.divergences(start)
        assert found == pytest.approx([float(part.detach()) for part in parts], rel=1e-9)
        assert objective.total(found) == pytest.approx(float(total.detach()), rel=1e-9)
        gradient = objective.gradient(start)
        halves = [objective.gradient(start, chosen) for chosen in ((0, 3), (1, 2))]
        for m in spaces:
            assert relative_error(gradient[m], expected[m]) < 1e-9
            assert relative_error(halves[0][m] + halves[1][m], expected[m]) < 1e-9
        with pytest.raises(DataError, match="no teacher has held prompts"):
            TeacherObjective(attached, teachers, "held")
