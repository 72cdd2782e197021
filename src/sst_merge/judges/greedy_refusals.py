"""Whether a model refuses prompts: its greedy answers, judged as in the evaluation.

An answer that is no text is no refusal, whatever words it holds: token soup would otherwise look safe.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..data_loader.batch import IGNORED, Batch
from .incoherence import Incoherence
from .refusal_rules import RefusalRules

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["GreedyRefusals", "coherent_refusals"]

_TOKENS = 4096
"""Tokens of prompts and answers that are held at once."""


def coherent_refusals(answers: Sequence[str]) -> list[bool]:
    """Which answers decline by the rules of refusal and are coherent; neither judge reads prompts.

    Args:
        answers: what came back; an empty one is incoherent.

    Returns:
        One verdict an answer.
    """
    prompts = [""] * len(answers)
    declines, nonsense = RefusalRules()(prompts, answers), Incoherence()(prompts, answers)
    return [d >= 0.5 and n < 0.5 for d, n in zip(declines, nonsense, strict=True)]


class GreedyRefusals:
    """Counts refusals for ``safety_target``; for any causal language model that transformers generates with.

    Args:
        tokenizer: of the base model; it encoded the prompts.
        new_tokens: an answer is judged by at most so many.

    Example:
        >>> refuses = GreedyRefusals(tokenizer)
        >>> merge_lora_adapters(model, [code, safety], harm, benign, safety_target=0.9, refuses=refuses)
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, new_tokens: int = 64) -> None:
        self.tokenizer, self.new_tokens = tokenizer, new_tokens

    def __call__(self, model: "PreTrainedModel", batches: Sequence[Batch]) -> list[bool]:
        """Ask the prompts of some batches; their answers are not looked at.

        Args:
            model: in evaluation mode.
            batches: of prompts with answers.

        Returns:
            For every prompt in order whether it is refused.
        """
        ends = self._ends(model, batches)
        prompts = [prompt for batch in batches for prompt in _prompts(batch)]
        found = [False] * len(prompts)
        for part in self._parts([len(prompt) for prompt in prompts]):
            answers = self._answers(model, [prompts[i] for i in part], ends)
            for i, verdict in zip(part, coherent_refusals(answers), strict=True):
                found[i] = verdict
        return found

    def _parts(self, lengths: list[int]) -> Iterator[list[int]]:
        """Places of prompts, shortest first: a step of few rows takes nearly as long as one of many."""
        part: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if part and (len(part) + 1) * (lengths[i] + self.new_tokens) > _TOKENS:
                yield part
                part = []
            part.append(i)
        if part:
            yield part

    def _answers(self, model: "PreTrainedModel", prompts: "list[Tensor]", ends: list[int]) -> list[str]:
        import torch

        longest = max(map(len, prompts))
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else (ends or [0])[0]
        ids = torch.full((len(prompts), longest), padding)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt.cpu()
            mask[row, longest - len(prompt) :] = 1
        where = prompts[0].device
        with torch.no_grad():
            found = model.generate(
                ids.to(where),
                attention_mask=mask.to(where),
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.new_tokens,
                eos_token_id=ends or None,
                pad_token_id=padding,
            )
        answers = [self._until(row.tolist(), ends) for row in found[:, longest:]]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def _ends(self, model: "PreTrainedModel", batches: Sequence[Batch]) -> list[int]:
        """Tokens that end an answer: the model's, the tokenizer's, and special ones that end the given answers."""
        named = getattr(model.generation_config, "eos_token_id", None)
        found = set(named) if isinstance(named, list) else {named}
        found.add(self.tokenizer.eos_token_id)
        special = {*self.tokenizer.all_special_ids, *getattr(self.tokenizer, "added_tokens_decoder", {})}
        for batch in batches:
            for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
                last = int(ids[labels != IGNORED][-1])
                if last in special:
                    found.add(last)
        return sorted(int(token) for token in found if token is not None)

    @staticmethod
    def _until(answer: list[int], ends: list[int]) -> list[int]:
        stop = next((i for i, token in enumerate(answer) if token in ends), len(answer))
        return answer[:stop]


def _prompts(batch: Batch) -> "list[Tensor]":
    """Token ids before the answer, row by row, without padding."""
    found = []
    for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
        begin = int((labels != IGNORED).nonzero()[0])
        kept = mask[:begin].bool()
        found.append(ids[:begin][kept])
    return found
