"""HumanEval: completions to programs, pass@k, canonical solutions, and the tasks as lm-evaluation-harness runs them."""

import contextlib
import gzip
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sst_merge.errors import DataError, SandboxError
from sst_merge.measures.pass_at_k import pass_at_k
from sst_merge.sandbox import ALLOW_VARIABLE, Program, refuse_unless_allowed, run_programs
from sst_merge.suites import available_suites, load_set
from sst_merge.suites.builtin._completions import program_from_answer, program_from_continuation

PROMPT = (
    "from typing import List\n\n\ndef double(x: int) -> int:\n    return 2 * x\n\n\n"
    'def doubled(numbers: List[int]) -> List[int]:\n    """ Every number, doubled.\n    >>> doubled([1])\n'
    '    [2]\n    """\n'
)
TEST = "def check(candidate):\n    assert candidate([1, 2]) == [double(1), 4]\n    assert doubled([]) == []\n"
BODY = "    return [double(x) for x in numbers]\n"
OWN = {"id": "own/0", "prompt": PROMPT, "test": TEST, "entry_point": "doubled", "canonical_solution": BODY}
WHOLE = "def doubled(numbers):\n    return [2 * x for x in numbers]\n"
BEGIN = "Here it is:\n\n```python\n"


def program_for(problem: Mapping[str, str], source: str) -> Program:
    return Program(source=source, tests=problem["test"], entry_point=problem["entry_point"], context=problem["prompt"])


def answers_to_double(program: str) -> bool:
    """Runs trusted programs in this process: an oracle that has nothing to do with the sandbox."""
    namespace: dict[str, object] = {}
    exec(program, namespace)
    exec(TEST, namespace)
    try:
        namespace["check"](namespace["doubled"])  # type: ignore[operator]
    except AssertionError:
        return False
    return True


class TestCompletions:
    @pytest.mark.parametrize(
        "rest",
        [
            "",
            "\ndef other():\n    return 1\n",
            "\n# that was it\nnonsense here",
            "\nclass A:\n  wrong indent\n x",
            "\nif __name__ == '__main__':\n    doubled(3)",
            "\nprint(doubled(3))",
            "```\nThis function doubles.",
        ],
    )
    def test_continuation_ends_with_the_function(self, rest: str) -> None:
        assert answers_to_double(program_from_continuation(PROMPT, BODY + rest))

    def test_continuation_is_not_repaired(self) -> None:
        with pytest.raises(SyntaxError):
            answers_to_double(program_from_continuation(PROMPT, "return numbers"))

    @pytest.mark.parametrize(
        ("text", "open_fence"),
        [
            (BODY, True),
            (BODY + "```\n\nIt doubles every number.\n```python\nprint(doubled([1]))\n```", True),
            ("\n" + BODY + "```", True),
            ("return [2 * x for x in numbers]\n```", True),
            ("Sure!\n" + BEGIN + WHOLE + "```\nThat is all.", True),
            (WHOLE + "\n\nif __name__ == '__main__':\n    print(doubled([1]))\n```", True),
            (BEGIN + WHOLE + "```\nThat is all.", False),
            (BEGIN + WHOLE, False),
            ("Example:\n```\nx = 3\n```\nSolution:\n" + BEGIN + PROMPT + BODY + "```", False),
            ("```python\n" + BODY + "```", False),
            (WHOLE, False),
            ("Sure, this works:\n\n" + WHOLE + "\nIt runs in linear time, don't worry.\nBye.", False),
            (PROMPT + BODY, False),
            ("Sure\n" + BEGIN + WHOLE + "```", True),
            (BODY + "```\nOr, wrongly:\n```python\ndef doubled(numbers):\n    return []\n```", True),
            ("```py\nfrom typing import List\nimport math\n\n" + WHOLE + "```", False),
        ],
    )
    def test_answers_in_a_chat(self, text: str, open_fence: bool) -> None:
        assert answers_to_double(program_from_answer(PROMPT, "doubled", text, open_fence=open_fence))

    @pytest.mark.parametrize("text", ["", "I cannot do that.", "```python\n```", "```", "(" * 10**5, "\0"])
    def test_answers_without_code_give_a_program_that_fails(self, text: str) -> None:
        program = program_from_answer(PROMPT, "doubled", text)
        assert program.startswith(PROMPT)
        with contextlib.suppress(SyntaxError, ValueError, NameError, MemoryError):
            assert not answers_to_double(program)


class TestPassAtK:
    @pytest.mark.parametrize("samples", [1, 4, 7])
    def test_is_the_share_of_subsets_with_a_pass(self, samples: int) -> None:
        for passed, k in itertools.product(range(samples + 1), range(1, samples + 1)):
            subsets = list(itertools.combinations([1] * passed + [0] * (samples - passed), k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(samples, passed, k) == pytest.approx(expected, abs=1e-12)

    def test_is_exact_for_many_samples(self) -> None:
        assert pass_at_k(10_000, 3, 1) == pytest.approx(3e-4, rel=1e-12)
        assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01, rel=1e-12)

    @pytest.mark.parametrize(("samples", "passed", "k"), [(1, 2, 1), (1, 0, 2), (3, 1, 0), (3, -1, 1), (0, 0, 1)])
    def test_refuses_what_cannot_be(self, samples: int, passed: int, k: int) -> None:
        with pytest.raises(DataError, match="expected 0 ≤ passed"):
            pass_at_k(samples, passed, k)


def write_set(folder: Path, problems: Sequence[Mapping[str, str]]) -> None:
    (folder / "humaneval").mkdir()
    with gzip.open(folder / "humaneval" / "HumanEval.jsonl.gz", "wt", encoding="utf-8") as stream:
        for problem in problems:
            stream.write(json.dumps({**problem, "task_id": problem["id"]}) + "\n")


@pytest.mark.sandbox
class TestPrograms:
    def test_order_and_company_change_nothing(self) -> None:
        programs = [PROMPT + BODY, PROMPT + "    return numbers\n", PROMPT + "    pass\n", "rubbish(", PROMPT + WHOLE]
        jobs = [program_for(OWN, program) for program in programs]
        expected = {job: run_programs([job], workers=1)[0].passed for job in jobs}
        assert list(expected.values()) == [True, False, False, False, True]
        shuffled = jobs * 2
        random.Random(0).shuffle(shuffled)
        found = run_programs(shuffled, workers=3)
        assert [outcome.passed for outcome in found] == [expected[job] for job in shuffled]

    def test_helpers_of_the_prompt_judge_not_those_of_the_program(self) -> None:
        cheat = PROMPT + "    return []\n\ndef double(x):\n    return Same()\n"
        assert not run_programs([program_for(OWN, cheat)])[0].passed

    @pytest.mark.data
    def test_canonical_solutions(self) -> None:
        problems = load_set("humaneval").rows
        assert len(problems) == 164
        outcomes = run_programs([program_for(row, row["prompt"] + row["canonical_solution"]) for row in problems])
        failed = [
            (problem["id"], outcome) for problem, outcome in zip(problems, outcomes, strict=True) if not outcome.passed
        ]
        assert failed == []

    @pytest.mark.data
    def test_stubs_and_neighbours_solutions_fail(self) -> None:
        problems = load_set("humaneval").rows
        jobs = [program_for(problem, problem["prompt"] + "    pass\n") for problem in problems[::16]]
        for problem, other in zip(problems[::16], problems[1::16], strict=False):
            renamed = other["prompt"].replace(f"def {other['entry_point']}(", f"def {problem['entry_point']}(")
            jobs.append(program_for(problem, renamed + other["canonical_solution"]))
        assert [job.entry_point for job, found in zip(jobs, run_programs(jobs), strict=True) if found.passed] == []


class TestReading:
    def test_lacking_column(self, tmp_path: Path) -> None:
        (tmp_path / "humaneval").mkdir()
        with gzip.open(tmp_path / "humaneval" / "HumanEval.jsonl.gz", "wt") as stream:
            stream.write('{"task_id": "x", "prompt": "y", "test": "z"}\n')
        with pytest.raises(DataError, match="canonical_solution"):
            load_set("humaneval", tmp_path)

    def test_off_unless_asked_for(self) -> None:
        for environment in ({}, {ALLOW_VARIABLE: "0"}, {ALLOW_VARIABLE: ""}):
            with pytest.raises(SandboxError, match="--allow-code-execution"):
                refuse_unless_allowed(environment)


@pytest.fixture
def two_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[Mapping[str, str]]:
    other = {
        "id": "own/1",
        "prompt": 'def successor(n):\n    """ n + 1 """\n',
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        "entry_point": "successor",
        "canonical_solution": "    return n + 1\n",
    }
    write_set(tmp_path, [OWN, other])
    monkeypatch.setenv("SST_MERGE_DATA", str(tmp_path))
    return [OWN, other]


def evaluate(task: str, say: Callable[[int, str], str], *, allowed: bool = True) -> tuple[Any, Any, list[str]]:
    """Run a task through lm-evaluation-harness with a model that says what it is told to."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.tasks import TaskManager

    class Parrot(LM):
        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

        def generate_until(self, requests):
            prompts.extend(request.args[0] for request in requests)
            return [say(number, request.args[0]) for number, request in enumerate(requests)]

    prompts: list[str] = []

    manager = TaskManager(include_defaults=False, metadata={"samples": None, "seed": 0})
    tasks = manager.load([available_suites()[task.removeprefix("sst_")].config])["tasks"]
    found = lm_evaluate(
        Parrot(), {"tasks": tasks}, log_samples=True, bootstrap_iters=0, confirm_run_unsafe_code=allowed
    )
    return found["samples"][task], found["results"][task], prompts


@pytest.mark.sandbox
class TestTasks:
    def test_continuations(self, two_problems: Sequence[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ALLOW_VARIABLE, "1")
        samples, results, prompts = evaluate(
            "sst_humaneval", lambda number, prompt: BODY + "\ndef" if "doubled" in prompt else "    return n"
        )
        assert prompts == [problem["prompt"] for problem in two_problems]
        assert [sample["correct"] for sample in samples] == [1.0, 0.0]
        assert results["correct,run"] == 0.5
        assert [sample["doc"]["id"] for sample in samples] == ["own/0", "own/1"]
        assert samples[0]["resps"] == [[BODY + "\ndef"]]

    def test_answers(self, two_problems: Sequence[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ALLOW_VARIABLE, "1")
        samples, _, prompts = evaluate(
            "sst_humaneval_instruct",
            lambda number, prompt: BODY + "```\nDone." if "doubled" in prompt else "    return n + 1\n```",
        )
        assert [sample["correct"] for sample in samples] == [1.0, 1.0]
        assert all(prompt.endswith('"""\n') and prompt.count("```") == 3 for prompt in prompts), prompts

    def test_samples(self, two_problems: Sequence[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ALLOW_VARIABLE, "1")
        samples, _, _ = evaluate(
            "sst_humaneval_samples", lambda number, prompt: BODY if number % 5 == 0 else "    return n"
        )
        assert [sample["correct"] for sample in samples] == [0.2, 0.0]
        assert [sample["pass_at_10"] for sample in samples] == [1.0, 0.0]

    def test_off_unless_asked_for(
        self, two_problems: Sequence[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
        with pytest.raises(ValueError, match="unsafe"):
            evaluate("sst_humaneval", lambda number, prompt: BODY, allowed=False)
        with pytest.raises(SandboxError, match="--allow-code-execution"):
            evaluate("sst_humaneval", lambda number, prompt: BODY)
