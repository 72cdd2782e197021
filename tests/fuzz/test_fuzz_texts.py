"""Files of text that are almost right: configurations, calibration data, questions, records."""

import gzip
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tests.fuzz.almost_right import VALUE, damaged, document, fuzz, put, refused_or_read, written

from sst_merge.data_loader import DataSource, load_rows
from sst_merge.evaluation.config import EvaluationConfig
from sst_merge.evaluation.records import read_records
from sst_merge.evaluation.summary import read_summary
from sst_merge.judges.check import read_labelled
from sst_merge.merging.config import MergeConfig
from sst_merge.suites.custom import custom_suite
from sst_merge.training.config import TrainConfig
from sst_merge.yaml_config import load_yaml_config


def as_yaml(value: Any) -> bytes:
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):
        return b"{}"


YAML_TRAPS = st.sampled_from([
    b"a: 2024-13-45",
    b"a: &x [*x]",
    b"a: " + b"[" * 400,
    b"a: !!python/object/apply:os.system [x]",
    b"? [a]: b",
    b"a: 0x" + b"f" * 6000,
    b"a: " + b"9" * 6000,
    b"a: !!binary '%%'",
    b"a: 1:" * 50,
    b"\xff\xfe",
    b"--- a\n--- b",
    b"<<: [1]",
    b"seed: 1\nseed: 2",
    b'a: "\\ud800"',
    b"a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 30)),
])


def configuration(fields: dict[str, SearchStrategy[Any]]) -> SearchStrategy[bytes]:
    return YAML_TRAPS | damaged(document(fields).map(as_yaml))


ADAPTERS = st.lists(
    document({
        "path": st.just("a"),
        "name": st.text(max_size=3),
        "role": st.just("safety"),
        "weight": st.floats(-2, 2),
    }),
    max_size=3,
)
SOURCE = document({
    "path": st.just("x.jsonl"),
    "samples": st.integers(1, 9),
    "where": st.just({"a": 1}),
    "template": st.just("chat"),
})
MERGES = configuration({
    "adapters": ADAPTERS,
    "output": document({"path": st.just("out"), "rank": st.integers(1, 9), "energy": st.floats(0.1, 1)}),
    "merge": document({"method": st.sampled_from(["ties", "sst", "dare"]), "density": st.floats(0, 1)}),
    "seed": st.integers(0, 9),
    "data": document({"harm": SOURCE, "benign": SOURCE}),
    "base_model": st.just("base"),
    "force": st.booleans(),
})
EVALUATIONS = configuration({
    "base": st.just("base"),
    "suites": st.lists(st.sampled_from(["mmlu", "all", "q.jsonl"]), min_size=1, max_size=2),
    "out": st.just("out"),
    "adapters": st.lists(st.sampled_from(["a", "b=c"])),
    "samples": st.integers(1, 9),
    "batch_size": st.integers(1, 9),
    "seed": st.integers(0, 9),
})
TRAININGS = configuration({
    "base": st.just("base"),
    "output": st.just("out"),
    "data": st.lists(SOURCE, max_size=2),
    "seed": st.integers(0, 9),
    "recipe": document({
        "rank": st.integers(1, 9),
        "targets": st.just("all-linear"),
        "learning_rate": st.floats(0.0001, 1),
    }),
})
ROW = document({
    "prompt": st.text(max_size=8),
    "response": st.text(max_size=8),
    "is_safe": st.booleans(),
    "id": st.integers(0, 9),
})
CHAT = document({
    "messages": st.lists(
        document({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=5)})
    )
})
QUESTION = document({
    "prompt": st.text(min_size=1, max_size=5),
    "answer": st.text(min_size=1, max_size=3),
    "tags": st.just({"a": "b"}),
    "options": st.just(["a", "b"]),
    "match": st.just("contains"),
    "id": st.integers(0, 3),
})


def lines(rows: SearchStrategy[Any]) -> SearchStrategy[bytes]:
    return damaged(st.lists(rows | VALUE, max_size=5).map(lambda found: b"\n".join(map(written, found))))


@fuzz(0.24)
@given(
    drawn=st.one_of(
        *(
            st.tuples(st.just(kind), content)
            for kind, content in ((MergeConfig, MERGES), (EvaluationConfig, EVALUATIONS), (TrainConfig, TRAININGS))
        )
    )
)
def test_configurations(drawn: tuple[Any, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    kind, content = drawn
    file = put(tmp_path_factory.getbasetemp(), "c.yaml", content)
    refused_or_read(lambda: load_yaml_config(kind, file))


@fuzz(0.2)
@given(
    content=lines(ROW | CHAT) | damaged(st.lists(ROW, max_size=3).map(written)) | st.just(b"a,b\n1,2\n"),
    name=st.sampled_from(["d.jsonl", "d.json", "d.csv", "d.jsonl.gz"]),
    where=st.none()
    | st.dictionaries(st.sampled_from(["is_safe", "id"]), st.booleans() | st.integers(0, 9), min_size=1),
    response=st.none() | st.just("No."),
    samples=st.none() | st.integers(1, 3),
)
def test_calibration_data(
    content: bytes, name: str, where: Any, response: Any, samples: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = gzip.compress(content) if name.endswith(".gz") and len(content) % 3 else content
    file = put(tmp_path_factory.getbasetemp(), name, data)
    refused_or_read(lambda: load_rows(DataSource(path=file, where=where, response=response, samples=samples)))


@fuzz(0.1)
@given(content=lines(QUESTION), measure=st.sampled_from(["", ":safety", ":utility", ":x"]))
def test_questions_and_labels(content: bytes, measure: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = put(tmp_path_factory.getbasetemp(), "q.jsonl", content)
    refused_or_read(lambda: custom_suite(f"{file}{measure}"))
    refused_or_read(lambda: read_labelled(file))
    refused_or_read(lambda: list(read_records(file)))
    refused_or_read(lambda: read_summary(file))
