"""Batches, shared beginnings and caches against one row at a time."""

import pytest
import torch
from tests.conftest import VOCABULARY, tiny_model

from sst_merge.worlds.text.forward import Reader, common_prefix

ENDS = frozenset({3, 5})


def _rows(n: int = 7, *, shared: int = 3, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (n,), generator=generator).tolist()
    start = torch.randint(VOCABULARY, (shared,), generator=generator).tolist()
    return [start + torch.randint(VOCABULARY, (k,), generator=generator).tolist() for k in lengths]


def _families() -> list[list[int]]:
    """Two groups that share much more than all rows do, a loner, and rows of all lengths."""
    long = [[*range(1, 31)], [1, 2, *range(30, 2, -1)]]
    rows = [start + tail for start in long for tail in _rows(4, shared=0, seed=len(start))]
    return [*rows, [1, 2, 9]]


def _next(model: torch.nn.Module, row: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([row])).logits[0, -1].float()


@pytest.fixture(params=["llama", "mistral", "gpt2"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return tiny_model(request.param, dtype=torch.float64)


@pytest.mark.parametrize("shared", [0, 3])
@pytest.mark.parametrize("tokens", [1, 24, 4096])
def test_logits_after_rows_are_those_of_one_row_at_a_time(model: torch.nn.Module, shared: int, tokens: int) -> None:
    rows = _rows(shared=shared)
    found = Reader(model, tokens=tokens).next_logits(rows)
    torch.testing.assert_close(found, torch.stack([_next(model, row) for row in rows]))


def test_rows_that_begin_much_alike_are_read_behind_what_they_share() -> None:
    model, rows = tiny_model("llama", dtype=torch.float64), _families()
    reads = list(Reader(model).read(rows))
    assert sorted(sorted(read.rows) for read in reads) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    for read in reads:
        assert read.lengths.tolist() == [len(rows[i]) for i in read.rows]
        torch.testing.assert_close(read.logits, torch.stack([_next(model, rows[i]) for i in read.rows]))


@pytest.mark.parametrize("tokens", [1, 4096])
def test_greedy_answers_are_those_of_one_row_at_a_time(tokens: int) -> None:
    for rows in (_rows(), _families()):
        model = tiny_model("llama", dtype=torch.float64)
        found = Reader(model, tokens=tokens).greedy(rows, new_tokens=8, ends=ENDS)
        lengths = set()
        for row, answer in zip(rows, found, strict=True):
            expected: list[int] = []
            while len(expected) < 8 and (token := int(_next(model, row + expected).argmax())) not in ENDS:
                expected.append(token)
            assert answer == expected
            lengths.add(len(answer))
        assert len(lengths) > 1, "some answers end early"


def _scores(model: torch.nn.Module, row: list[int], answers: list[list[int]]) -> list[float]:
    return [
        float(sum(_next(model, row + answer[:t]).log_softmax(-1)[answer[t]] for t in range(len(answer))))
        for answer in answers
    ]


def test_whole_answers_are_scored_as_one_row_at_a_time(model: torch.nn.Module) -> None:
    rows, answers = _rows(), [[4, 9, 5], [4, 5], [7], [4, 9, 8, 11, 5]]
    reader, best = Reader(model, tokens=40), []
    for read in reader.read(rows):
        of = [answers[i % 4 :] + answers[: i % 4] for i in read.rows]
        pairs = [(k, a) for k in range(len(read.rows)) for a in range(len(answers))]
        found = reader.continue_with(read, pairs, of)
        expected = [_scores(model, rows[i], own) for i, own in zip(read.rows, of, strict=True)]
        assert found.tolist() == pytest.approx([value for scores in expected for value in scores], rel=1e-5)
        assert reader.likeliest(read, of) == [scores.index(max(scores)) for scores in expected]
        best += reader.likeliest(read, of)
    assert len(set(best)) > 1


def test_answers_that_cannot_win_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    model.lm_head.weight.data.mul_(3.0)  # a model that is sure of something
    reader, answers = Reader(model), [[token, 6, 5] for token in range(20)]
    asked: list[int] = []
    plain = Reader.continue_with

    def counted(self: Reader, read: object, pairs: list[tuple[int, int]], of: object) -> torch.Tensor:
        asked.append(len(pairs))
        return plain(self, read, pairs, of)  # type: ignore[arg-type]

    monkeypatch.setattr(Reader, "continue_with", counted)
    rows = _rows(6)
    (read,) = reader.read(rows)
    expected = [_scores(model, rows[i], answers) for i in read.rows]
    assert reader.likeliest(read, [answers] * 6) == [scores.index(max(scores)) for scores in expected]
    assert sum(asked) < 0.8 * 6 * 20


def test_given_answers_are_scored_token_by_token(model: torch.nn.Module) -> None:
    rows = [(row, max(1, len(row) // 2)) for row in _rows(shared=2)]
    found = Reader(model, tokens=30).answer_log_probabilities(rows)
    for (ids, asked), (likely, likeliest) in zip(rows, found, strict=True):
        steps = [_next(model, ids[:t]).log_softmax(-1) for t in range(asked, len(ids))]
        torch.testing.assert_close(likely, torch.stack([s[ids[asked + t]] for t, s in enumerate(steps)]))
        assert likeliest.tolist() == [int(s.argmax()) == ids[asked + t] for t, s in enumerate(steps)]


def test_a_common_prefix_leaves_every_row_a_token() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 9]]) == 1
    assert common_prefix([[1], [1, 2]]) == 0
