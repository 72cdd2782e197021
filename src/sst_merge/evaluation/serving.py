"""Requests in fixed batches, answered from disk where they were answered before.

lm-evaluation-harness hands all requests of a suite to its model at once; here they are cut into the very batches that
it would make, in its order, and each batch is one step: looked up, run by lm-evaluation-harness's own model, written
down, counted. Options of a large vocabulary whose prompts begin alike are cut into batches by that (:mod:`.beginnings`)
and scored by a model that spares the rest (:mod:`.sparing`). Batches are a function of the requests alone, so that a
run that was killed continues with the same batches and ends in the same numbers, and a sampled answer, seeded by its
batch, is the same as well.
"""

import hashlib
import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM

from .. import processes
from .answers import AnswerStore
from .beginnings import pack_tokens, row_batches, unpack_tokens
from .shared_answers import exchange_answers

__all__ = ["Plan", "ServedModel"]

Advance = Callable[[int, int], None]
_KEPT_TEXTS = 16


@dataclass(frozen=True)
class Plan:
    """How one suite's requests are run; the same for every adapter on one base.

    Attributes:
        keys: of each request, for the store.
        batches: indices of the requests that run together.
        encoded: (context, continuation) tokens of each request, packed, for option scoring; empty for generation.
    """

    keys: Sequence[str]
    batches: Sequence[Sequence[int]]
    encoded: Sequence[tuple[bytes, bytes]] = ()


class ServedModel(LM):  # type: ignore[misc]
    """lm-evaluation-harness's view of one model with a store; everything else is the model's own.

    Attributes:
        store: answers of the model in use.
        suite: name of the suite that runs, under which plans are kept.
        advance: told (requests done, requests in all).
    """

    def __init__(self, inner: TemplateLM, *, batch_size: int, seed: int) -> None:
        """Wrap a model.

        Args:
            inner: lm-evaluation-harness's model.
            batch_size: requests a batch.
            seed: of sampled answers.
        """
        super().__init__()
        self.inner = inner
        self.store: AnswerStore | None = None
        self.suite = ""
        self.advance: Advance = lambda done, total: None
        self._batch_size = batch_size
        self._seed = seed
        self._plans: dict[tuple[str, str], tuple[list[Instance], Plan]] = {}

    @property
    def tokenizer_name(self) -> str:
        """The model's tokenizer, as lm-evaluation-harness names it."""
        return str(self.inner.tokenizer_name)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model's tokenizer writes it."""
        return str(self.inner.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Score continuations; contexts that differ in the last token only share one pass."""
        plan = self._plan("loglikelihood", requests, self._plan_options)

        def run(indices: Sequence[int]) -> list[Any]:
            batch = [
                (requests[i].args, unpack_tokens(plan.encoded[i][0]), unpack_tokens(plan.encoded[i][1]))
                for i in indices
            ]
            return self.inner._loglikelihood_tokens(batch, disable_tqdm=True)

        return [(float(value), bool(greedy)) for value, greedy in self._serve(plan, run)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood of whole texts."""
        plan = self._plan("loglikelihood_rolling", requests, self._plan_texts)

        def run(indices: Sequence[int]) -> list[Any]:
            return self.inner.loglikelihood_rolling([requests[i] for i in indices], disable_tqdm=True)

        return [float(value) for value in self._serve(plan, run)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Generate answers."""
        plan = self._plan("generate_until", requests, self._plan_generation)

        def run(indices: Sequence[int]) -> list[Any]:
            if requests[indices[0]].args[1].get("do_sample"):
                self._seed_batch([plan.keys[i] for i in indices])
            return self.inner.generate_until([requests[i] for i in indices], disable_tqdm=True)

        return [str(answer) for answer in self._serve(plan, run)]

    def _serve(self, plan: Plan, run: Callable[[Sequence[int]], list[Any]]) -> list[Any]:
        store = self.store
        assert store is not None, "no store is open"
        total, done = len(plan.keys), 0
        exchange_answers(store, plan.keys)
        turn = 0
        for batch in plan.batches:
            missing = [i for i in batch if plan.keys[i] not in store]
            if missing:
                if processes.mine(turn):
                    store.add(zip((plan.keys[i] for i in missing), run(missing), strict=True))
                turn += 1
            done += len(batch)
            self.advance(done, total)
        exchange_answers(store, plan.keys)
        return [store[key] for key in plan.keys]

    def _plan(self, kind: str, requests: list[Instance], make: Callable[[list[Instance]], Plan]) -> Plan:
        """The plan of this suite, made once: adapters on one base share tokenizer, template and requests."""
        known = self._plans.get((self.suite, kind))
        if known is not None and len(known[0]) == len(requests) and all(map(operator.is_, known[0], requests)):
            return known[1]
        plan = make(requests)
        self._plans[self.suite, kind] = (list(requests), plan)
        return plan

    def _plan_options(self, requests: list[Instance]) -> Plan:
        encoded = self._encode_options(requests)
        groups: dict[bytes, list[int]] = {}
        for i, (context, continuation) in enumerate(encoded):
            groups.setdefault(context + continuation[:-4], []).append(i)

        def order(group: list[int]) -> tuple[int, bytes]:
            # lm-evaluation-harness runs the longest continuation of a group, longest input first, ties by tokens.
            longest = max(group, key=lambda i: len(encoded[i][1]))
            tokens = encoded[longest][0] + encoded[longest][1]
            return -len(tokens), tokens

        chunks = [[groups[row] for row in chunk] for chunk in self._by_beginning(list(groups))]
        batches = [
            [i for group in chunk for i in group]
            for chunk in chunks or self._chunks(sorted(groups.values(), key=order))
        ]
        return Plan(_keys("loglikelihood", requests), batches, encoded)

    def _by_beginning(self, rows: Sequence[bytes]) -> list[list[bytes]]:
        """Rows in batches that begin alike, where the model reads that once and it pays; else none."""
        if not getattr(self.inner, "spares", False):
            return []
        return [[rows[i] for i in batch.rows] for batch in row_batches(rows, self._batch_size) or ()]

    def _encode_options(self, requests: list[Instance]) -> list[tuple[bytes, bytes]]:
        """Tokens of all requests; a context that several options share is tokenised and kept once."""
        encode = self.inner.tok_encode
        remembered = lru_cache(maxsize=_KEPT_TEXTS)(encode)

        def shared(text: str, *args: Any, **kwargs: Any) -> list[int]:
            return encode(text, *args, **kwargs) if args or kwargs else list(remembered(text))

        packed: dict[bytes, bytes] = {}
        found = []
        self.inner.tok_encode = shared
        try:
            for context, continuation in (request.args for request in requests):
                if context == "":
                    pair = self._without_context(encode(continuation, add_special_tokens=False))
                else:
                    pair = self.inner._encode_pair(context, continuation)
                before = pack_tokens(pair[0])
                found.append((packed.setdefault(before, before), pack_tokens(pair[1])))
        finally:
            del self.inner.tok_encode
        return found

    def _without_context(self, continuation: list[int]) -> tuple[list[int], list[int]]:
        prefix = self.inner.prefix_token_id
        return ([prefix], continuation) if prefix != continuation[0] else (continuation[:1], continuation[1:])

    def _plan_texts(self, requests: list[Instance]) -> Plan:
        return Plan(_keys("loglikelihood_rolling", requests), self._chunks(range(len(requests))))

    def _plan_generation(self, requests: list[Instance]) -> Plan:
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(i)
        lengths = [len(self.inner.tok_encode(request.args[0])) for request in requests]
        batches: list[Sequence[int]] = []
        for group in groups.values():
            batches += self._chunks(sorted(group, key=lambda i: (-lengths[i], requests[i].args[0])))
        return Plan(_keys("generate_until", requests), batches)

    def _chunks(self, items: Sequence[Any]) -> list[Sequence[Any]]:
        return [items[i : i + self._batch_size] for i in range(0, len(items), self._batch_size)]

    def _seed_batch(self, keys: Sequence[str]) -> None:
        import torch

        text = f"{self._seed}/" + "/".join(keys)
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


def _keys(kind: str, requests: Sequence[Instance]) -> list[str]:
    """SHA-256 of each request; the second, third, ... of equal ones (several answers to one prompt) are told apart."""
    seen: dict[str, int] = {}
    keys = []
    for request in requests:
        text = json.dumps([kind, *request.args], ensure_ascii=False, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        count = seen[key] = seen.get(key, 0) + 1
        keys.append(key if count == 1 else f"{key}#{count}")
    return keys
