"""Judges that answer a question about an answer: HarmBench's classifier, Llama Guard 3, WildGuard.

A guard writes its verdict as text of a fixed form ("safe", "Response refusal: yes"). Here the form is given and only
the words that carry a verdict are read, as probabilities of the next token: where the guard would have kept to its
form the verdict is the same as by greedy generation, it can never fail to parse, and it is a score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ._loading import LazyModel
from .contract import Column, Judge, JudgeSettings

__all__ = ["Guard", "GuardJudge", "GuardReader", "Question", "guard_judges"]


@dataclass(frozen=True)
class Question:
    """One verdict within a guard's form.

    Attributes:
        lead: text of the form before the verdict.
        yes: spellings of yes.
        no: spellings of no.
        column: what it decides, or None where it is only part of the form.
    """

    lead: str
    yes: tuple[str, ...]
    no: tuple[str, ...]
    column: Column | None


@dataclass(frozen=True, kw_only=True)
class Guard:
    """How one published guard is asked.

    Attributes:
        model: id on the hub.
        version: of prompt and form here.
        template: with fields prompt and response; special tokens written out unless `adds_bos`.
        questions: verdicts in the order of the form.
        adds_bos: the tokenizer puts its first token before the template.
        max_length: longest input in tokens; longer answers lose their end.
        licence: how access is granted.
    """

    model: str
    version: str
    template: str
    questions: tuple[Question, ...]
    adds_bos: bool
    max_length: int
    licence: str


class GuardReader:
    """A loaded guard and what it said; judges of several columns share one, so that it reads every answer once.

    Args:
        guard: how it is asked.
        settings: model, device, type and batch size.
    """

    def __init__(self, guard: Guard, settings: JudgeSettings) -> None:
        self.guard, self._batch_size = guard, settings.batch_size
        self.lazy = LazyModel(guard.model, "AutoModelForCausalLM", settings, licence=guard.licence)
        self._known: dict[tuple[str, str], dict[Column, float]] = {}

    def read(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Mapping[Column, float]]:
        """Verdicts of a guard.

        Args:
            prompts: what users said.
            responses: what came back.

        Returns:
            Column → probability of yes, one mapping per pair.
        """
        pairs = list(zip(prompts, responses, strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        for start in range(0, len(new), self._batch_size):
            chunk = new[start : start + self._batch_size]
            self._known.update(zip(chunk, self._ask(chunk), strict=True))
        return [self._known[pair] for pair in pairs]

    def _ask(self, pairs: Sequence[tuple[str, str]]) -> list[dict[Column, float]]:
        texts = [self._fill_in(prompt, response) for prompt, response in pairs]
        found: list[dict[Column, float]] = [{} for _ in pairs]
        for question in self.guard.questions:
            texts = [text + question.lead for text in texts]
            yes, no = self._verdict_tokens(texts[0], question)
            for i, logits in enumerate(self._next_token([self._encode(text) for text in texts])):
                score = float((logits[yes].logsumexp(0) - logits[no].logsumexp(0)).sigmoid())
                if question.column is not None:
                    found[i][question.column] = score
                texts[i] += (question.yes if score >= 0.5 else question.no)[0]  # the form goes on with what it said
        return found

    def _encode(self, text: str) -> list[int]:
        _, tokenizer = self.lazy.load()
        ids: list[int] = tokenizer(text, add_special_tokens=self.guard.adds_bos).input_ids
        return ids

    def _fill_in(self, prompt: str, response: str) -> str:
        """The template filled in; an answer that does not fit loses its end.

        Raises:
            DataError: the question alone does not fit.
        """
        _, tokenizer = self.lazy.load()
        form = "".join(question.lead + question.yes[0] for question in self.guard.questions)
        text = self.guard.template.format(prompt=prompt, response=response)
        excess = len(self._encode(text + form)) - self.guard.max_length
        if excess <= 0:
            return text
        kept = tokenizer(response, add_special_tokens=False).input_ids[: -excess - 1]
        if not kept:
            raise DataError(
                f"judge {self.lazy.id}: its prompt with a question of {len(prompt)} characters leaves no room for an "
                f"answer within {self.guard.max_length} tokens; shorten the question"
            )
        return self.guard.template.format(prompt=prompt, response=tokenizer.decode(kept, skip_special_tokens=True))

    def _verdict_tokens(self, text: str, question: Question) -> tuple[list[int], list[int]]:
        """First tokens of yes and of no behind a text; spellings that the vocabulary joins to it are left out.

        Raises:
            DataError: yes and no begin alike, or all their spellings are joined.
        """
        context = self._encode(text)
        n = len(context)
        sets = []
        for spellings in (question.yes, question.no):
            behind = [self._encode(text + spelling) for spelling in spellings]
            sets.append({ids[n] for ids in behind if ids[:n] == context and len(ids) > n})
        yes, no = sets
        if not yes or not no or yes & no:
            raise DataError(
                f"judge {self.lazy.id}: its vocabulary does not tell {question.yes[0]!r} from {question.no[0]!r} by "
                "their first token; is it the right model?"
            )
        return sorted(yes), sorted(no)

    def _next_token(self, inputs: Sequence[list[int]]) -> Any:
        """Logits of the token after each input; padding stands to the right, where nothing looks."""
        import torch

        model, tokenizer = self.lazy.load()
        longest = max(map(len, inputs))
        ids = torch.full((len(inputs), longest), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, tokens in enumerate(inputs):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            mask[i, : len(tokens)] = 1
        last = torch.tensor([len(tokens) - 1 for tokens in inputs])
        with torch.inference_mode():
            # The head is applied to one position of each text: all positions at once would fill the memory.
            states = model.base_model(
                input_ids=ids.to(self.lazy.device), attention_mask=mask.to(self.lazy.device)
            ).last_hidden_state
            logits = model.get_output_embeddings()(states[torch.arange(len(inputs)), last])
        return logits.float().cpu()


class GuardJudge:
    """Judge of one column by a guard.

    Args:
        reader: the guard; judges of its other columns may share it.
        column: what this judge decides.
    """

    def __init__(self, reader: GuardReader, column: Column) -> None:
        self._reader = reader
        self.column: Column = column
        self.name = f"{reader.lazy.id}@{reader.guard.version}"

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Score pairs.

        Args:
            prompts: what users said.
            responses: what came back.

        Returns:
            Probability of yes among yes and no.
        """
        return [found[self.column] for found in self._reader.read(prompts, responses)]


def guard_judges(guard: Guard, settings: JudgeSettings) -> list[Judge]:
    """One judge for each column that a guard decides; they share its model.

    Args:
        guard: how it is asked.
        settings: model, device, type and batch size.

    Returns:
        The judges, in the order of the guard's form.
    """
    reader = GuardReader(guard, settings)
    return [GuardJudge(reader, question.column) for question in guard.questions if question.column is not None]
