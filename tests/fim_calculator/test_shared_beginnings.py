"""Beginnings that a CoreModel reads once: the same log-probabilities and gradients as naive ones, with fewer tokens."""

import sys
from typing import Any

import pytest
import torch
from tests.fim_calculator.test_fim_calculator_estimates import NAMES, make_spaces, soft_capped
from torch import nn

from sst_merge.data_loader import Batch
from sst_merge.fim_calculator import CoreModel, answer_log_probabilities, token_logprobs

BEGINNING = [5, 9, 2, 30, 11]


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even in a tiny model."""
    monkeypatch.setattr("sst_merge.fim_calculator.capture._LARGE_VOCABULARY", 1)
    monkeypatch.setattr(sys.modules["sst_merge.data_loader.answer_logits"], "PASS_TOKENS", 1)


def alike(oracle: Any) -> list[tuple[list[int], int]]:
    return [([*BEGINNING, *ids], len(BEGINNING) + prompt) for ids, prompt in oracle.random_samples(4)]


def read_tokens(model: nn.Module) -> list[int]:
    seen: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _layer, inputs, _out: seen.append(inputs[0].numel()))
    return seen


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_gradients_are_those_of_whole_prompts(oracle: Any, build: Any, relative_error: Any, family: str) -> None:
    # Gemma's embedding is its output layer, too.
    left_out = ("lm_head", "embed") if family == "gemma2" else ("lm_head",)
    names = [name for name in NAMES["gpt2" if family == "gpt2" else "llama"] if not any(n in name for n in left_out)]
    model = (soft_capped() if family == "gemma2" else build.tiny_model(family)).double()
    spaces = make_spaces(model, names)
    generator = torch.Generator().manual_seed(3)
    cores = {name: 0.1 * torch.randn(space.shape, generator=generator).double() for name, space in spaces.items()}
    samples = alike(oracle)
    rows = oracle.sample_gradients(model, spaces, samples, cores)
    batch, seen = oracle.pad(samples), read_tokens(model)
    variables = {name: core.clone().requires_grad_(True) for name, core in cores.items()}
    with CoreModel(model, spaces) as attached:
        attached.set_point(variables)
        whole = token_logprobs(attached.answers(batch))[0].detach()
        seen.clear()
        found = token_logprobs(attached.answers(batch, share=True))[0]
        gradients = torch.autograd.grad(found.sum(), list(variables.values()))
    assert sum(seen[-2:]) == len(BEGINNING) + 4 * (batch.input_ids.shape[1] - len(BEGINNING))
    # Norms (and Gemma 2's attention) are computed in float32 whatever the model's type is.
    assert relative_error(found.detach(), whole) < 1e-6
    for name, gradient in zip(variables, gradients, strict=True):
        assert relative_error(gradient, rows[name].sum(0)) < 1e-5, name


def test_an_answer_keeps_the_token_before_it(oracle: Any, build: Any) -> None:
    model = build.tiny_model("llama")
    seen, spaces = read_tokens(model), make_spaces(model, NAMES["llama"][1:3])
    short = [([*BEGINNING, 4, 3], len(BEGINNING)), ([*BEGINNING, 4, 8], len(BEGINNING) + 1)]
    with CoreModel(model, spaces) as attached, torch.no_grad():
        answer_log_probabilities(attached, oracle.pad(short))
    assert seen[-2:] == [len(BEGINNING) - 1, 2 * 3]


def whole(batch: Batch) -> list[int]:
    return [batch.input_ids.numel()]


def test_where_it_cannot_be_shared_all_is_read(oracle: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build.tiny_model("llama")
    seen, spaces = read_tokens(model), make_spaces(model, NAMES["llama"][1:3])
    batch = oracle.pad(alike(oracle))

    def read(**changed: Any) -> list[int]:
        with CoreModel(model, spaces) as attached:
            seen.clear()
            attached.answers(changed.get("batch", batch), **{"share": True, **changed.get("how", {})})
        return seen[-1:] if len(seen) < 3 else seen[-2:]

    assert len(read()) == 2
    assert read(how={"share": False}) == whole(batch)
    padded = oracle.pad(alike(oracle), side="left")
    assert read(batch=padded) == whole(padded)
    model.gradient_checkpointing_enable()
    assert read() == whole(batch)
    model.gradient_checkpointing_disable()
    with CoreModel(model, spaces) as attached, attached.recording(lambda *_: None):
        seen.clear()
        attached.answers(batch, share=True)
    assert seen == whole(batch)
    monkeypatch.setattr("sst_merge.fim_calculator.capture.can_share_prefix", lambda _: False)
    assert read() == whole(batch)
