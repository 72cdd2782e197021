"""Logits at answers alone, against transformers' full logits and its own loss, for architectures that differ there."""

import copy
from typing import Any

import pytest
import torch
from tests.conftest import error_of as relative_error
from tests.conftest import peft_model, randomise
from torch import nn
from torch.nn.functional import cross_entropy

from sst_merge.data_loader import Batch, answer_logits, can_share_prefix
from sst_merge.errors import BaseModelError, DataError

VOCABULARY = 41
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 41}
GROUPED = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def config(name: str) -> Any:
    import transformers as t

    match name:
        case "gpt2":
            return t.GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2)
        case "gpt_neox":
            return t.GPTNeoXConfig(**SMALL, max_position_embeddings=32)
        case "bloom":
            return t.BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2)
        case "gemma2":
            return t.Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=2.0)
        case "cohere":
            return t.CohereConfig(**GROUPED, logit_scale=0.25)
        case "granite":
            return t.GraniteConfig(**GROUPED, logits_scaling=3.0)
        case "mamba":
            return t.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
        case "llama-tied":
            return t.LlamaConfig(**GROUPED, tie_word_embeddings=True)
        case "mistral":
            # A window shorter than the texts, and than the beginnings that they share.
            return t.MistralConfig(**GROUPED, sliding_window=3)
    return t.LlamaConfig(**GROUPED)


NAMES = ["llama", "llama-tied", "mistral", "gpt2", "gpt_neox", "bloom", "gemma2", "cohere", "granite", "mamba"]


def model_of(name: str) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(name))
    randomise(model, seed=0, scale=0.2)
    return model.double().eval()


def batch(*, side: str = "right") -> Batch:
    """Four rows of 3 to 11 tokens with answers of 1 to 5."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (4, 11), generator=generator)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (length, answer) in enumerate([(3, 1), (7, 5), (11, 2), (8, 3)]):
        begin = 0 if side == "right" else 11 - length
        mask[row, begin : begin + length] = 1
        labels[row, begin + length - answer : begin + length] = ids[row, begin + length - answer : begin + length]
    return Batch(ids, mask, labels)


def full_logits(model: Any, shown: Batch) -> torch.Tensor:
    return model(input_ids=shown.input_ids, attention_mask=shown.attention_mask).logits


def expected(logits: torch.Tensor, shown: Batch) -> torch.Tensor:
    """Row by row, with Python's own loop."""
    found = [
        logits[row, position - 1]
        for row in range(len(shown))
        for position in range(1, shown.labels.shape[1])
        if shown.labels[row, position] != -100
    ]
    return torch.stack(found)


# Where padding comes first, transformers' own Bloom and Gemma 2 give NaN in float64: its lowest number overflows.
@pytest.mark.parametrize(
    ("name", "side"),
    [*((name, "right") for name in NAMES), *((name, "left") for name in NAMES if name not in {"bloom", "gemma2"})],
)
def test_the_logits_are_the_models_own(name: str, side: str) -> None:
    model, shown = model_of(name), batch(side=side)
    with torch.no_grad():
        found = answer_logits(model, shown)
        wanted = expected(full_logits(model, shown), shown)
    assert found.logits.shape == (11, VOCABULARY)
    assert relative_error(found.logits, wanted) < 1e-12
    assert found.samples.tolist() == [0] + [1] * 5 + [2] * 2 + [3] * 3
    assert found.targets.tolist() == shown.labels[shown.labels != -100].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_those_of_transformers(name: str) -> None:
    one, other, shown = model_of(name), model_of(name), batch()
    found = answer_logits(one, shown)
    loss = cross_entropy(found.logits, found.targets)
    wanted = other(input_ids=shown.input_ids, attention_mask=shown.attention_mask, labels=shown.labels).loss
    assert float(loss.detach()) == pytest.approx(
        float(wanted.detach()), rel=1e-6
    )  # transformers computes it in float32
    logits = expected(full_logits(other, shown), shown)
    cross_entropy(logits, found.targets).backward()
    loss.backward()
    for (key, parameter), same in zip(one.named_parameters(), other.parameters(), strict=True):
        assert parameter.grad is not None, key
        assert relative_error(parameter.grad, same.grad) < 1e-10 or float(same.grad.norm()) < 1e-12, key


def alike() -> Batch:
    """Rows whose first five tokens are the same, padded on the right."""
    shown = batch()
    ids, mask, labels = shown.input_ids, shown.attention_mask.clone(), shown.labels
    ids[:, :5] = torch.tensor([9, 4, 17, 30, 5])
    ids[0, 5:8], mask[0] = torch.tensor([6, 7, 8]), torch.tensor([1] * 8 + [0] * 3)
    labels[0] = torch.tensor([-100] * 6 + [7, 8] + [-100] * 3)
    labels[1] = torch.tensor([-100] * 6 + [int(ids[1, 6])] + [-100] * 4)
    labels[3, 5] = -100
    return Batch(ids, mask, labels)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mamba"])
def test_a_beginning_that_is_read_once_changes_neither_logits_nor_gradients(name: str) -> None:
    one, other, shown = model_of(name), model_of(name), alike()
    assert can_share_prefix(one)
    found = answer_logits(one, shown, prefix=5)
    wanted = expected(full_logits(other, shown), shown)
    # Norms (and Gemma 2's attention) are computed in float32 whatever the model's type is.
    assert relative_error(found.logits, wanted) < 1e-6
    assert found.targets.tolist() == shown.labels[shown.labels != -100].tolist()
    cross_entropy(found.logits, found.targets).backward()
    cross_entropy(wanted, found.targets).backward()
    for (key, parameter), same in zip(one.named_parameters(), other.parameters(), strict=True):
        assert relative_error(parameter.grad, same.grad) < 1e-6 or float(same.grad.norm()) < 1e-12, key


def test_a_recurrent_model_shares_nothing() -> None:
    assert not can_share_prefix(model_of("mamba"))


@pytest.mark.parametrize("prefix", [6, 7])
def test_rows_that_do_not_begin_alike_are_refused(prefix: int) -> None:
    with pytest.raises(DataError, match=f"its 4 rows do not share {prefix} tokens"):
        answer_logits(model_of("llama"), alike(), prefix=prefix)


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["lm_head", "v_proj"]])
def test_an_adapter_also_on_the_output_layer(targets: list[str]) -> None:
    adapted, shown = peft_model(model_of("llama"), targets=targets), batch()
    with torch.no_grad():
        assert relative_error(answer_logits(adapted, shown).logits, expected(full_logits(adapted, shown), shown)) < 1e-6


def test_only_answers_reach_the_output_layer_and_no_hook_stays() -> None:
    model, seen = model_of("llama"), []
    model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    answer_logits(model, batch())
    full_logits(model, batch())
    assert seen == [(4, 11, 16), (4, 11, 16)]  # a hook that was there before sees what it always saw
    sizes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _, args, out: sizes.append(tuple(out.shape)))
    answer_logits(model, batch())
    with pytest.raises(IndexError):
        answer_logits(model, Batch(batch().input_ids + 1000, batch().attention_mask, batch().labels))
    full_logits(model, batch())
    assert sizes == [(1, 11, VOCABULARY), (4, 11, VOCABULARY)]


class _HiddenHead(nn.Module):
    """A model whose output layer is used, but never called."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = copy.deepcopy(inner)

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.lm_head

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        states = self.inner.model(input_ids=input_ids, attention_mask=attention_mask)
        states.logits = states.last_hidden_state @ self.inner.lm_head.weight.T
        return states


def test_a_model_that_never_calls_its_output_layer_computes_everywhere() -> None:
    model, shown = model_of("llama"), batch()
    with torch.no_grad():
        wanted = answer_logits(model, shown)
        found = answer_logits(_HiddenHead(model), shown)
    assert relative_error(found.logits, wanted.logits) < 1e-12
    assert found.targets.tolist() == wanted.targets.tolist()


def test_other_shapes_are_refused() -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    model = LlamaForSequenceClassification(LlamaConfig(**GROUPED)).eval()
    with pytest.raises(BaseModelError, match=r"LlamaForSequenceClassification: logits of shape \(4, 2\) for tokens"):
        answer_logits(model, batch())
