"""The loop of training: AdamW over planned steps, alone or with gradients of several processes added up."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import processes
from ..data_loader import answer_logits, pad_rows
from ..errors import ConfigError, TrainingError
from ..progress import Progress
from ..tracking import record
from .checkpoint import Checkpoint, TrainingState
from .order import learning_rate_share
from .plan import TrainingPlan
from .recipe import TrainingRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Loop"]


@dataclass
class Loop:
    """AdamW over the planned steps.

    Attributes:
        model: the base with its adapter, in evaluation mode.
        plan: the steps.
        tokenizer: says which token pads.
        recipe: of the optimiser.
        device: where the model is.
        dtype: of the base.
    """

    model: Any
    plan: TrainingPlan
    tokenizer: "PreTrainedTokenizerBase"
    recipe: TrainingRecipe
    device: str
    dtype: str

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained, in the model's order."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def run(self, checkpoint: Checkpoint, progress: Progress | None, stage: str) -> TrainingState:
        """All steps that are not done yet; the model is trained in place.

        Args:
            checkpoint: where to begin, and where to save.
            progress: called after every step.
            stage: its name.

        Returns:
            Losses and seconds of all steps.

        Raises:
            TrainingError: a loss that is not finite.
        """
        parameters, steps = self.parameters, len(self.plan.steps)
        optimiser = torch.optim.AdamW(parameters, weight_decay=self.recipe.weight_decay, fused=True)
        state = checkpoint.load(parameters, optimiser)
        accelerator = _accelerator(self.device, self.dtype)
        # Several processes add up their gradients after the passes of a step, not in every one of them.
        alone = processes.count() == 1
        model = accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=not alone)
        for step in range(len(state.losses), steps):
            began = time.perf_counter()
            loss = self._gradient(accelerator, model, step)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{stage}: the loss of step {step + 1} is {loss}; lower learning_rate ({self.recipe.learning_rate})"
                    f"{', or train in float32' if self.dtype != 'float32' else ''}"
                )
            share = learning_rate_share(step, steps, math.ceil(self.recipe.warmup * steps))
            for group in optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * share
            accelerator.clip_grad_norm_(parameters, self.recipe.clip)
            optimiser.step()
            optimiser.zero_grad()
            state.losses.append(loss)
            state.seconds += time.perf_counter() - began
            record("training", step + 1, {"loss": loss, "learning_rate": self.recipe.learning_rate * share})
            checkpoint.save_when_due(parameters, optimiser, state)
            if progress is not None:
                progress(stage, step + 1, steps)
        accelerator.unwrap_model(model)
        return state

    def _gradient(self, accelerator: Any, model: Any, step: int) -> float:
        """Add up the gradient of the mean loss per answer token; returns that loss."""
        rows = self.plan.rows
        tokens = sum(len(rows[i].ids) - rows[i].asked for i in self.plan.steps[step])
        total = 0.0
        for part in self.plan.passes(step, processes.shard(self.plan.steps[step])):
            batch = pad_rows([rows[i] for i in part.rows], self.tokenizer, self.device)
            found = answer_logits(model, batch, prefix=part.prefix)
            loss = cross_entropy(found.logits.float(), found.targets, reduction="sum") / tokens
            accelerator.backward(loss)
            total += float(loss.detach())
        if processes.count() > 1:
            (total,) = processes.sums("loss", [total])
            for parameter in self.parameters:  # a process without rows in this step has none
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            processes.add_up(
                "gradient", [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            )
        return total


def _accelerator(device: str, dtype: str) -> Any:
    """Accelerate, for one process or those that share the training.

    Raises:
        ConfigError: several processes that do not share it.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # Accelerate holds one precision and device a process, from whoever came first; transformers' Trainer resets it too.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if dtype == "bfloat16" else "no")
    if accelerator.num_processes != processes.count():
        raise ConfigError(
            f"a launcher started {accelerator.num_processes} processes that do not share this training: start "
            f"`sst-merge train`, or call train_adapter inside `with sst_merge.processes.joined():`"
        )
    return accelerator
