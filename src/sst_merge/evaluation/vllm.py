"""The same two moves, take off and put on, with vLLM: one engine, and a LoRA request that names the adapter in use."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..conversion import SERVED_RANKS, vllm_room
from ..data_loader import base_folder
from ..errors import AdapterError, ConfigError
from .adapters import EvaluatedAdapter
from .settings import ModelSettings

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

__all__ = ["VllmModels"]

# vLLM batches by itself; a step is what a kill may cost.
_STEP = 256
_PROBE_ROWS, _PROBE_LENGTH = 2, 24


class VllmModels:
    """A vLLM engine with a base, and the adapter that its requests name.

    Attributes:
        lm: lm-evaluation-harness's model.
        batch_size: prompts handed over at a time.
    """

    def __init__(self, base: str, settings: ModelSettings, adapters: Sequence[EvaluatedAdapter]) -> None:
        """Start the engine.

        Raises:
            ConfigError: vLLM is not installed.
        """
        try:
            from lm_eval.models.vllm_causallms import VLLM
        except ImportError as error:
            raise ConfigError(
                f"--backend vllm: vLLM cannot be imported ({error}); install it (pip install vllm, needs a GPU), or "
                f"take --backend hf"
            ) from error
        options: dict[str, Any] = {}
        if adapters:
            options = {
                "lora_local_path": str(adapters[0].path),
                "max_lora_rank": _room(max(adapter.rank for adapter in adapters)),
            }
        access, fetched = settings.access, settings.access.of(base)  # vLLM itself knows no folders in repositories
        self.batch_size = _STEP if settings.batch_size == "auto" else settings.batch_size
        self.lm: TemplateLM = VLLM(
            pretrained=str(base_folder(base, access)) if "subfolder" in fetched else access.repo(base),
            dtype=settings.dtype,
            tensor_parallel_size=settings.tensor_parallel,
            seed=settings.seed,
            batch_size="auto",
            revision=None if "subfolder" in fetched else fetched.get("revision"),
            trust_remote_code=settings.trust_remote_code,
            **options,
        )
        self.lm.lora_request = None
        self._dtype = settings.dtype
        self._numbers = {adapter.name: number for number, adapter in enumerate(adapters, start=1)}
        self._base_scores = self._probe()

    def use(self, adapter: EvaluatedAdapter | None) -> None:
        """Name another adapter in all requests from now on; checks that it changes the scores of a probe.

        Raises:
            AdapterError: the scores are the base's.
        """
        self.lm.lora_request = None
        if adapter is None:
            return
        from vllm.lora.request import LoRARequest

        self.lm.lora_request = LoRARequest(adapter.name, self._numbers[adapter.name], str(adapter.path))
        if not adapter.changes_nothing and self._probe() == self._base_scores:
            raise AdapterError(
                f"adapter {adapter.name!r} ({adapter.path}): with it, vLLM gives exactly the base's scores on "
                f"{_PROBE_ROWS} probe texts, so it is not applied; nothing was evaluated for it. Try --backend hf, and "
                f"compare base_model_name_or_path of its adapter_config.json with the base"
            )

    def describe(self) -> Mapping[str, Any]:
        """What goes on the record: type, device, longest input."""
        return {"dtype": self._dtype, "device": "cuda", "max_length": self.lm.max_length}

    def _probe(self) -> list[float]:
        """Scores of the same arbitrary tokens every time."""
        import random

        rng = random.Random(0)
        size = len(self.lm.tokenizer)
        rows = [[rng.randrange(size) for _ in range(_PROBE_LENGTH)] for _ in range(_PROBE_ROWS)]
        requests = [((f"probe {i}", ""), row[:1], row[1:]) for i, row in enumerate(rows)]
        return [score for score, _ in self.lm._loglikelihood_tokens(requests, disable_tqdm=True)]


def _room(rank: int) -> int:
    room = vllm_room(rank)
    if room is not None:
        return room
    raise ConfigError(
        f"an adapter has rank {rank}, vLLM takes at most {SERVED_RANKS[-1]}; merge with --rank, or take --backend hf"
    )
