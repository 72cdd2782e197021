"""Options scored where they are and beginnings read once; oracle: lm-evaluation-harness's own scoring of everything."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM

from sst_merge.evaluation import sparing
from sst_merge.evaluation.beginnings import pack_tokens, row_batches, shared_beginning, unpack_tokens
from sst_merge.evaluation.sparing import SparingHFLM

VOCABULARY = 4200
_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def causal_model(kind: str) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 96}
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96}
    if kind == "gemma2":
        sizes |= {"final_logit_softcapping": 2.0, "sliding_window": 16}
    if kind == "mamba":
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, tie_word_embeddings=False, **sizes)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="1", pad_token="0")


def requests() -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """Two subjects with worked examples, a question alone, one that is too long; options of one token and of more."""
    draw = random.Random(0)
    found = []
    for subject in range(2):
        before = [draw.randrange(2, VOCABULARY) for _ in range(40)]
        for number in range(3):
            asked = [*before, *(draw.randrange(2, VOCABULARY) for _ in range(4 + 3 * number))]
            options = [[11 + subject], [12], [13, 14, 15]]
            found += [((f"{subject}/{number}", str(option)), asked, option) for option in options]
    alone = [draw.randrange(2, VOCABULARY) for _ in range(9)]
    found += [(("alone", "a"), alone, [20, 21]), (("alone", "b"), [*alone, 20], [22])]
    long = [draw.randrange(2, VOCABULARY) for _ in range(130)]
    return [*found, (("long", "a"), long, [7, 8])]


def scorer(kind: type[HFLM], model: torch.nn.Module, tokenizer: Any, size: int = 4) -> HFLM:
    lm = kind(pretrained=model, tokenizer=tokenizer, max_batch_size=8, max_length=96)
    lm.batch_size_per_gpu = size
    return lm


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mamba"])
@pytest.mark.parametrize("adapted", [False, True], ids=["base", "peft"])
def test_scores_are_those_of_lm_evaluation_harness(kind: str, adapted: bool, tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model: Any = causal_model(kind)
    if adapted:
        targets = {"gpt2": ["c_attn", "lm_head"], "mamba": ["in_proj"]}.get(kind, ["q_proj", "lm_head"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            lora = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, fan_in_fan_out=kind == "gpt2")
            model = get_peft_model(model, lora).eval()
    asked = requests()
    alone = scorer(HFLM, model, tokenizer)
    # One by one: of two requests whose tokens meet, it scores the second at a token of the first.
    theirs = [alone._loglikelihood_tokens([one], disable_tqdm=True)[0] for one in asked]
    ours = scorer(SparingHFLM, model, tokenizer)
    assert ours.spares
    found = ours._loglikelihood_tokens(asked, disable_tqdm=True)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in theirs]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in theirs], rel=1e-4)
    single = {round(value, 3) for (value, _), (_, _, option) in zip(found, asked, strict=True) if len(option) == 1}
    assert len(single) > 8, "questions and options are told apart"


def test_texts_as_a_whole_are_scored_alike(tokenizer: Any) -> None:
    from lm_eval.api.instance import Instance

    model = causal_model("llama")
    texts = [" ".join(str(2 + (7 * i * k) % 4000) for i in range(1, 60 + 90 * k)) for k in (1, 2)]
    asked = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    theirs, ours = (scorer(kind, model, tokenizer).loglikelihood_rolling(asked, True) for kind in (HFLM, SparingHFLM))
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_logits_and_beginnings_are_spared(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal_model("llama")
    seen: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _m, inputs, _o: seen.append(tuple(inputs[0].shape[:2])))
    read: list[tuple[int, ...]] = []
    model.model.embed_tokens.register_forward_hook(lambda _m, inputs, _o: read.append(tuple(inputs[0].shape)))
    lm = scorer(SparingHFLM, model, tokenizer)
    lm._loglikelihood_tokens(requests()[:1], disable_tqdm=True)  # looks once whether beginnings can be shared
    seen.clear(), read.clear()
    lm._loglikelihood_tokens(requests()[:9], disable_tqdm=True)
    assert read[0] == (1, 40), "the examples before the questions are read once"
    assert all(rows == 1 for rows, _ in seen), "the output layer sees chosen positions"
    full = [0]

    def no_room(*_: object, prefix: int = 0, **__: object) -> torch.Tensor:
        full[0] += 1
        raise RuntimeError("out of memory") if prefix else ValueError("read whole")

    monkeypatch.setattr(sparing, "logits_at", no_room)
    with pytest.raises(ValueError, match="read whole"):
        lm._loglikelihood_tokens(requests()[:9], disable_tqdm=True)
    assert full == [2], "where memory is full the rows are read whole"


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40), min_size=1, max_size=12), st.integers(1, 4))
def test_batches_hold_every_row_once_and_begin_alike(rows: list[list[int]], size: int) -> None:
    head = [9] * 30
    packed = [pack_tokens([*head, *row]) for row in rows]
    assert [unpack_tokens(row) for row in packed] == [[*head, *row] for row in rows]
    batches = row_batches(packed, size)
    if batches is None:
        return
    assert sorted(i for batch in batches for i in batch.rows) == list(range(len(rows)))
    for batch in batches:
        assert 1 <= len(batch.rows) <= size
        beginnings = {tuple([*head, *rows[i]][: batch.shared]) for i in batch.rows}
        assert len(beginnings) == 1 and all(batch.shared < len(rows[i]) + 30 for i in batch.rows)
        assert batch.shared == shared_beginning([packed[i] for i in batch.rows])
    assert row_batches(packed, size) == batches


def test_strangers_and_short_beginnings_are_not_put_together() -> None:
    draw = random.Random(1)
    strangers = [pack_tokens([draw.randrange(100) for _ in range(50)]) for _ in range(6)]
    assert row_batches(strangers, 4) is None
    subjects = [[k] * 60 for k in range(2)]
    rows = [pack_tokens([*subjects[i % 2], i]) for i in range(6)]
    batches = row_batches(rows, 8)
    assert batches is not None
    assert [(sorted(batch.rows), batch.shared) for batch in batches] == [([0, 2, 4], 60), ([1, 3, 5], 60)]
