"""A frozen model seen through its core spaces: y = W x + U M Vᵀ x, and the gradients with respect to M.

For one token the gradient of a log-likelihood with respect to M is (Uᵀδ)(Vᵀx)ᵀ with the layer's input x and output
gradient δ. Both projections are taken where they arise, in the forward and the backward pass, so that neither a
weight gradient nor an update of the weight's size is ever formed. Projections run in the type of the activations
(two thin matrix products a layer, far cheaper than the layer itself) and are handed on in float32, or in float64
for a float64 model.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from ..core_space import CoreSpace
from ..data_loader.answer_logits import PASS_TOKENS, AnswerLogits, answer_logits, can_share_prefix, shared_prefix
from ..data_loader.batch import IGNORED, Batch
from ..data_loader.devices import onto
from ..errors import BaseModelError, DataError, FisherError
from ..lora_utils.layouts import is_packed, shape_of_layer
from .core_layer import CoreLayer, CorePath, Recorder, device_of
from .layer_parts import refuse_waiting
from .packed_gradients import check_packed_layers, refuse_lost_gradient
from .recomputing import recomputing

__all__ = ["CoreModel", "GradientCallback"]

GradientCallback = Callable[[str, Tensor, Tensor], None]
"""Called as (module, e (b, t, p), z (b, t, q)) with e = Uᵀδ and z = Vᵀx of every token, 0 on padding."""

_LARGE_VOCABULARY = 4096
"""From here on the output layer costs enough to be spared; below it one product over all positions is as fast."""


class CoreModel:
    """Context manager around a Hugging Face causal language model.

    Inside the context all parameters are frozen and dropout is off; both are restored at the end, and all hooks
    removed, also after an error. The base weights are only read. A model with ``gradient_checkpointing_enable()`` keeps
    its layers' inputs alone for the backward pass, and computes them again there.

    Example:
        >>> with CoreModel(model, spaces) as core_model:
        ...     core_model.set_point(cores)
        ...     with torch.no_grad():
        ...         logits = core_model.logits(batch)
    """

    def __init__(self, model: nn.Module, spaces: Mapping[str, CoreSpace]) -> None:
        self.model = model
        self.spaces = dict(spaces)
        self._layers: dict[str, CoreLayer] = {}
        self._handles: list[RemovableHandle] = []
        self._open = ExitStack()
        self._callback: GradientCallback | None = None
        self._leaves: list[Tensor] = []
        self._batch_shape = (0, 0)
        self._padding: Tensor | None = None
        self._trained: list[nn.Parameter] = []
        self._training: list[nn.Module] = []

    @property
    def shared_layers(self) -> bool:
        """Whether other processes compute parts of a layer, so that all must take the same passes; once entered."""
        return any(layer.part is not None for layer in self._layers.values())

    def __enter__(self) -> Self:
        """Freeze the model and attach the hooks.

        Raises:
            BaseModelError: a core space does not fit the module of its name, or gradients are to be taken through a
                layer that has none.
        """
        if self._handles:
            raise BaseModelError("this CoreModel is already active; leave its context first")
        refuse_waiting(self.model)
        # All that can fail comes before the model is touched, for without __enter__ there is no __exit__.
        self._layers = {name: CoreLayer.of(self.model, name, space) for name, space in self.spaces.items()}
        embedding = self._embedding()
        kind = embedding.weight.dtype if isinstance(embedding, nn.Embedding) else torch.float32
        check_packed_layers(self.model, kind)
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self._training = [m for m in self.model.modules() if m.training]
        for parameter in self._trained:
            parameter.requires_grad_(False)
        self.model.eval()
        self._open.enter_context(recomputing(self.model))
        # First, so that the gradient path already exists when the embedding is itself a target.
        self._handles.append(embedding.register_forward_hook(self._start_gradients))
        for name, module in self.model.named_modules():
            if is_packed(module):
                self._handles.append(module.register_forward_hook(refuse_lost_gradient(name)))
        for name, layer in self._layers.items():
            self._handles.append(self.model.get_submodule(name).register_forward_hook(self._hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks and give the model back as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._open.close()
        self._layers.clear()
        self._leaves.clear()
        self._callback = None
        for parameter in self._trained:
            parameter.requires_grad_(True)
        for module in self._training:
            module.training = True

    def set_point(self, cores: Mapping[str, Tensor] | None) -> None:
        """Choose the cores at which the model computes; nothing is copied into the weights, so this is cheap.

        Args:
            cores: module name to M (p, q); a missing module, or None for all, is M = 0. Cores that require gradients
                receive them when the caller differentiates through :meth:`logits`.

        Raises:
            FisherError: a module without core space, or a core of another shape.
        """
        cores = cores or {}
        unknown = sorted(set(cores) - set(self._layers))
        if unknown:
            raise FisherError(f"module {unknown[0]}: no core space here; known are {len(self._layers)} modules")
        for name, layer in self._layers.items():
            core = cores.get(name)
            if core is not None and tuple(core.shape) != layer.space.shape:
                raise FisherError(
                    f"module {name}: core of shape {tuple(core.shape)}, its space needs {layer.space.shape}"
                )
            layer.core = None if core is None else onto(core, layer.left.device)

    def device_of(self, module: str) -> torch.device:
        """Where a module computes."""
        return self._layers[module].left.device

    @contextmanager
    def recording(self, callback: GradientCallback) -> Iterator[None]:
        """Let forward passes inside this context hand their gradients to a callback during :meth:`backward`.

        Args:
            callback: see :data:`GradientCallback`. A module that runs twice in a forward pass calls twice.

        Yields:
            Nothing.
        """
        self._callback = callback
        try:
            yield
        finally:
            self._callback = None
            self._leaves.clear()

    def logits(self, batch: Batch) -> Tensor:
        """One forward pass.

        Position ids count tokens, not padding, so that the side of the padding makes no difference.

        Args:
            batch: of b samples.

        Returns:
            (b, t, vocabulary): the logits at t predict the token at t + 1.
        """
        logits = self.model(**self._inputs(batch)).logits
        assert isinstance(logits, Tensor)
        return logits

    def answers(self, batch: Batch, *, share: bool = False) -> AnswerLogits:
        """One forward pass, of which the logits that predict an answer token are kept.

        Where the output layer is large and is not looked at itself, it computes at these positions alone: with prompts
        longer than their answers, that is half the work of a small model and most of the memory.

        Args:
            batch: of b samples.
            share: read what all samples begin with once, where that spares work: the same logits and gradients up to
                rounding. Not for a caller that observes activations, whose tokens are then in two passes.

        Returns:
            As :func:`~sst_merge.data_loader.answer_logits`.

        Raises:
            DataError: a sample without response token.
        """
        counts = (batch.labels[:, 1:] != IGNORED).sum(1)
        if bool((counts == 0).any()):
            raise DataError(
                f"sample {int((counts == 0).nonzero()[0])} of a batch has no response token after the first"
            )
        if not self._picks_positions():
            return AnswerLogits.of(self.logits(batch), batch)
        prefix = self._beginning(batch) if share and self._callback is None else 0
        inputs = self._inputs(batch)
        moved = Batch(
            inputs.pop("input_ids"), inputs.pop("attention_mask"), batch.labels.to(device_of(self._embedding()))
        )
        if prefix and "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"][:, prefix:]
        return answer_logits(self.model, moved, prefix=prefix, **inputs)

    def cost(self, batch: Batch) -> int:
        """Tokens that a pass of :meth:`answers` computes with ``share``, and what each of its passes costs on top."""
        rows, width = batch.input_ids.shape
        prefix = self._beginning(batch) if self._picks_positions() else 0
        return prefix + rows * (width - prefix) + PASS_TOKENS * (2 if prefix else 1)

    def _beginning(self, batch: Batch) -> int:
        """Tokens that all samples begin with and that are read once; 0 where that spares nothing or is not exact."""
        prefix = shared_prefix(batch)
        return prefix if prefix and self._shares_prefixes else 0

    @cached_property
    def _shares_prefixes(self) -> bool:
        """Whether beginnings may be read once; layers that compute again, or in several processes, keep them whole."""
        again = any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())
        return not again and not self.shared_layers and can_share_prefix(self.model)

    def _picks_positions(self) -> bool:
        """Whether the output layer is worth sparing, and may see positions out of their samples."""
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        observed = {id(self.model.get_submodule(name)) for name in self.spaces}
        if head is None or id(head) in observed:
            return False
        shape = shape_of_layer(head)
        return (head.weight.shape[0] if shape is None else shape.d_out) >= _LARGE_VOCABULARY

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Keywords of a forward pass; what the hooks need of the batch is noted."""
        device = device_of(self._embedding())
        self._batch_shape = (batch.input_ids.shape[0], batch.input_ids.shape[1])
        padded = bool((batch.attention_mask == 0).any())
        moved = batch.to(device)
        self._padding = (moved.attention_mask == 0).unsqueeze(-1) if padded else None
        self._leaves.clear()
        accepted = inspect.signature(self.model.forward).parameters
        extra: dict[str, Any] = {}
        if "use_cache" in accepted:
            extra["use_cache"] = False
        if "position_ids" in accepted:
            extra["position_ids"] = (moved.attention_mask.cumsum(1) - 1).clamp_min(0)
        return {"input_ids": moved.input_ids, "attention_mask": moved.attention_mask, **extra}

    def backward(self, objective: Tensor) -> None:
        """Send the gradient of a scalar back through the last recorded forward pass; no ``.grad`` is written.

        Args:
            objective: a sum over samples of each sample's own log-likelihood.

        Raises:
            FisherError: no recorded forward pass.
        """
        if not self._leaves:
            raise FisherError("backward without a forward pass inside recording(); nothing to differentiate")
        torch.autograd.grad(objective, self._leaves, allow_unused=True)
        self._leaves.clear()

    def _embedding(self) -> nn.Module:
        getter = getattr(self.model, "get_input_embeddings", None)
        embedding = getter() if callable(getter) else None
        if not isinstance(embedding, nn.Module):
            raise BaseModelError(f"{type(self.model).__name__} has no input embeddings; a Hugging Face model is needed")
        return embedding

    def _start_gradients(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self._callback is not None:
            self._leaves.append(output.requires_grad_(True))

    def _hook(self, layer: CoreLayer) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if self._callback is None and layer.core is None:
                return None
            # Where a model is spread over devices, the input may still be on the previous layer's.
            x: Tensor = args[0].to(layer.left.device)
            if self._callback is not None:
                if x.shape[0] == 1 < self._batch_shape[0]:
                    # One row for the whole batch (position embeddings): give every sample its own gradient.
                    x = x.expand(self._batch_shape[0], *x.shape[1:])
                    output = output.expand(self._batch_shape[0], *output.shape[1:])
                if not output.requires_grad:
                    output = output.detach().requires_grad_(True)
                    self._leaves.append(output)
            y: Tensor = CorePath.apply(output, x, layer.core, layer, self._recorder(layer))  # type: ignore[no-untyped-call]
            return y

        return hook

    def _recorder(self, layer: CoreLayer) -> Recorder | None:
        if self._callback is None:
            return None
        callback, padding, shape = self._callback, self._padding, self._batch_shape

        def record(e: Tensor, z: Tensor) -> None:
            e, z = self._by_sample(layer.name, e, shape), self._by_sample(layer.name, z, shape)
            if padding is not None:
                e, z = e.masked_fill(padding.to(e.device), 0.0), z.masked_fill(padding.to(z.device), 0.0)
            callback(layer.name, e, z)

        return record

    @staticmethod
    def _by_sample(name: str, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        # Some models flatten (b, t) to one dimension around their feed-forward part.
        if tuple(tokens.shape[:-1]) not in {shape, (shape[0] * shape[1],)}:
            raise FisherError(
                f"module {name}: activations of shape {tuple(tokens.shape)} cannot be split into {shape[0]} samples of "
                f"{shape[1]} tokens; routed experts and the like have no per-sample gradient here: leave the module out"
            )
        wide = tokens.reshape(*shape, tokens.shape[-1])
        return wide if wide.dtype == torch.float64 else wide.float()
