"""The vLLM backend without vLLM: a stand-in module of the same shape records what lm-evaluation-harness's class gets.

No GPU is at hand where these tests run, so they hold the arguments and the switch between adapters, not vLLM itself.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import pytest

from sst_merge.errors import AdapterError, ConfigError
from sst_merge.evaluation import EvaluatedAdapter, ModelSettings
from sst_merge.evaluation.vllm import VllmModels


class Request(NamedTuple):
    name: str
    number: int
    path: str


class Tokenizer:
    def __len__(self) -> int:
        return 100


class Engine:
    """lm-evaluation-harness's VLLM as far as it is used: scores depend on the adapter that the request names."""

    made: ClassVar[list[dict[str, Any]]] = []
    deaf = False

    def __init__(self, **options: Any) -> None:
        self.made.append(options)
        self.tokenizer, self.max_length = Tokenizer(), 2048
        self.lora_request: Request | None = Request("finetuned", 1, str(options.get("lora_local_path")))

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        number = 0 if self.lora_request is None or self.deaf else self.lora_request.number
        return [(-sum(context + continuation) - number / 8, False) for _, context, continuation in requests]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    monkeypatch.setattr(Engine, "made", [])
    monkeypatch.setattr(Engine, "deaf", False)
    harness, request = ModuleType("lm_eval.models.vllm_causallms"), ModuleType("vllm.lora.request")
    harness.VLLM, request.LoRARequest = Engine, Request  # type: ignore[attr-defined]
    for name, module in {
        "lm_eval.models.vllm_causallms": harness,
        "vllm": ModuleType("vllm"),
        "vllm.lora": ModuleType("vllm.lora"),
        "vllm.lora.request": request,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return Engine


def adapter(name: str, rank: int = 8, *, changes_nothing: bool = False) -> EvaluatedAdapter:
    return EvaluatedAdapter(
        name=name, path=Path("/adapters") / name, files={}, modules=("m",), rank=rank, changes_nothing=changes_nothing
    )


def test_one_engine_with_room_for_the_largest_adapter(engine: type[Engine]) -> None:
    adapters = [adapter("one", 8), adapter("two", 40)]
    settings = ModelSettings(backend="vllm", dtype="bfloat16", tensor_parallel=2, seed=3)
    models = VllmModels("org/base", settings, adapters)
    (options,) = engine.made
    assert options == {
        "pretrained": "org/base",
        "dtype": "bfloat16",
        "tensor_parallel_size": 2,
        "seed": 3,
        "batch_size": "auto",
        "revision": None,
        "trust_remote_code": False,
        "lora_local_path": "/adapters/one",
        "max_lora_rank": 64,
    }
    assert models.lm.lora_request is None, "the base comes first"
    models.use(adapters[1])
    assert models.lm.lora_request == Request("two", 2, "/adapters/two")
    models.use(adapters[0])
    assert models.lm.lora_request == Request("one", 1, "/adapters/one")
    models.use(None)
    assert models.lm.lora_request is None
    assert len(engine.made) == 1


def test_the_base_alone_needs_no_lora(engine: type[Engine]) -> None:
    VllmModels("org/base", ModelSettings(backend="vllm"), [])
    assert "lora_local_path" not in engine.made[0] and "max_lora_rank" not in engine.made[0]


def test_an_engine_that_ignores_the_adapter_is_an_error(engine: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "deaf", True)
    idle = adapter("idle", changes_nothing=True)
    models = VllmModels("org/base", ModelSettings(backend="vllm"), [adapter("one"), idle])
    with pytest.raises(AdapterError, match=r"'one' .*not applied"):
        models.use(adapter("one"))
    models.use(idle)


def test_what_vllm_cannot_do_is_said_before(engine: type[Engine]) -> None:
    with pytest.raises(ConfigError, match="rank 600, vLLM takes at most 512"):
        VllmModels("org/base", ModelSettings(backend="vllm"), [adapter("wide", 600)])
    assert not engine.made
    with pytest.raises(ConfigError, match="tensor_parallel"):
        ModelSettings(backend="vllm", device_map="auto")


def test_without_vllm_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "lm_eval.models.vllm_causallms", raising=False)
    with pytest.raises(ConfigError, match=r"--backend vllm: .* install it .* --backend hf"):
        VllmModels("org/base", ModelSettings(backend="vllm"), [])
