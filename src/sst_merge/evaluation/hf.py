"""One base in memory and one adapter at a time on it, as lm-evaluation-harness's own Hugging Face model."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data_loader.base_model import load_base_model, load_tokenizer, resolve_device
from ..errors import AdapterError
from .adapters import EvaluatedAdapter
from .resolved_patterns import resolved_config
from .settings import CPU_BATCH, ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HuggingFaceModels"]

_PROBE_ROWS, _PROBE_LENGTH, _LONG_PROMPT = 2, 24, 2048


class HuggingFaceModels:
    """A base model that takes adapters on and off; the base's weights are loaded once and never written to.

    Attributes:
        lm: lm-evaluation-harness's model, the base or the base with the adapter in use.
        batch_size: prompts a batch.
    """

    def __init__(self, base: str, settings: ModelSettings, adapters: Sequence[EvaluatedAdapter] = ()) -> None:
        """Load the base and its tokenizer."""
        from .sparing import SparingHFLM

        device = resolve_device(settings.device)
        dtype = settings.dtype_on(device, "auto")
        model = load_base_model(
            base,
            modules={module for adapter in adapters for module in adapter.modules},
            dtype=dtype,
            device=device,
            device_map=settings.device_map,
            access=settings.access,
        )
        tokenizer = load_tokenizer(base, access=settings.access)
        self.lm = SparingHFLM(pretrained=model, tokenizer=tokenizer, max_batch_size=64)
        self._base_model = self.lm._model
        self.batch_size = self._batch_size(settings)
        self.lm.batch_size_per_gpu = self.batch_size
        self._base_logits = self._probe()
        self._in_use: str | None = None

    def use(self, adapter: EvaluatedAdapter | None) -> None:
        """Take off the adapter in use and put another on; checks that it is on, and that the base came back unchanged.

        Raises:
            AdapterError: PEFT did not load every tensor, or the logits are the base's; or its configuration names no
                module of the base.
        """
        self._take_off()
        if adapter is None:
            return
        from peft import PeftModel

        try:
            config = resolved_config(adapter.path, self._base_model, adapter.modules)
            model = PeftModel.from_pretrained(self._base_model, str(adapter.path), config=config)
        except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
            first = str(error).strip().partition("\n")[0]
            raise AdapterError(
                f"adapter {adapter.name!r} ({adapter.path}): PEFT cannot load it onto this base ({first}); save it "
                f"again with the installed PEFT"
            ) from error
        self.lm._model = model.eval()
        self._in_use = adapter.name
        _check_loaded(model, adapter)
        if adapter.changes_nothing:
            return
        logits = self._probe()
        if not logits.isfinite().all():
            raise AdapterError(
                f"adapter {adapter.name!r} ({adapter.path}): base and adapter together give logits that are not finite "
                f"in {self.lm.model.dtype}; load in another type (--dtype), or use another checkpoint"
            )
        if bool((logits == self._base_logits).all()):
            raise AdapterError(
                f"adapter {adapter.name!r} ({adapter.path}): with it, the model gives exactly the base's logits on "
                f"{logits.shape[0] * logits.shape[1]} probe tokens, so it is not applied (or too small for "
                f"{self.lm.model.dtype}); nothing was evaluated for it. Compare base_model_name_or_path of its "
                f"adapter_config.json with the base, or load in float32 (--dtype float32)"
            )

    def describe(self) -> Mapping[str, Any]:
        """What goes on the record: type, device, parameters."""
        model = self._base_model
        return {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": self.lm.device.type,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "max_length": self.lm.max_length,
        }

    def _take_off(self) -> None:
        if self._in_use is None:
            return
        self._base_model = self.lm._model.unload()
        self.lm._model = self._base_model
        name, self._in_use = self._in_use, None
        if not bool((self._probe() == self._base_logits).all()):
            raise AdapterError(
                f"adapter {name!r}: the base gives other logits after it was taken off, so later figures would be "
                f"wrong; evaluate it in a run of its own"
            )

    def _probe(self) -> "Tensor":
        """Logits on the same arbitrary tokens every time, float32 on the CPU, (rows, length, vocabulary)."""
        import torch

        generator = torch.Generator().manual_seed(0)
        size = self._base_model.get_input_embeddings().weight.shape[0]
        length = min(_PROBE_LENGTH, self.lm.max_length)
        ids = torch.randint(size, (_PROBE_ROWS, length), generator=generator)
        logits: Tensor = self.lm._model_call(ids.to(self.lm.device))
        return logits.float().cpu()

    def _batch_size(self, settings: ModelSettings) -> int:
        if settings.batch_size != "auto":
            return settings.batch_size
        if self.lm.device.type == "cpu":
            return CPU_BATCH
        # Tried on a long prompt, not on all positions: those of newer models would leave room for one prompt alone.
        length = min(_LONG_PROMPT, self.lm.max_length - 1)
        return int(self.lm._detect_batch_size([("", [1] * length, [1])], 0))


def _check_loaded(model: Any, adapter: EvaluatedAdapter) -> None:
    """Every tensor of the file is in the model, and every LoRA layer of the model comes from the file.

    Raises:
        AdapterError: PEFT left something out, or made something up.
    """
    import torch

    from ..lora_utils import Adapter, layer_kinds

    file = Adapter.load(adapter.path, name=adapter.name, drop_modules_to_save=True)
    inner = model.get_base_model()
    parts = {kind.form.a for kind in layer_kinds()}
    # PEFT wraps a module once for every bare parameter of it that is adapted.
    layers = {
        re.sub(r"(\.base_layer)+$", "", name)
        for name, module in inner.named_modules()
        if any("default" in (getattr(module, part, None) or ()) for part in parts)
    }
    owners = {module: file.kind(module).owner(module) for module in adapter.modules}
    if layers != set(owners.values()):
        missing, extra = sorted(set(owners.values()) - layers), sorted(layers - set(owners.values()))
        raise AdapterError(
            f"adapter {adapter.name!r} ({adapter.path}): PEFT made LoRA layers for {len(layers)} modules, the file "
            f"holds {len(set(owners.values()))}; not loaded: {', '.join(missing[:3]) or 'none'}; without tensors: "
            f"{', '.join(extra[:3]) or 'none'}. Check target_modules in its adapter_config.json"
        )
    for module in adapter.modules:
        layer = inner.get_submodule(owners[module])
        kind, factors = file.kind(module), file.factors(module)
        while kind.bare and layer.parameter_name != kind.tensor_name(module).rpartition(".")[2]:
            layer = layer.base_layer
        held = getattr(layer, kind.form.a)["default"]
        held = getattr(held, kind.form.leaf) if kind.form.leaf else held
        held, _ = kind.from_file(held, held.T) if kind.bare else (held, None)
        expected, _ = kind.to_file(factors.a[: held.shape[0], : factors.d_in], factors.b)
        if not torch.equal(held.detach().cpu(), expected.to(held.dtype)):
            raise AdapterError(
                f"adapter {adapter.name!r} ({adapter.path}): module {module!r} holds another A in the model than in "
                f"the file; PEFT did not load it. Save the adapter again with the installed PEFT"
            )
