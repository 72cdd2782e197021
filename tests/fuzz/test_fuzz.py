"""A fuzzer of our own: almost right adapters, configurations, data, questions, statistics and command lines.

Every input either works or is refused by an error of this package, within five seconds. ``make fuzz`` tries 10,000, the
suite 500; the environment variable SST_MERGE_FUZZ says how many. An input that fails is shrunk
and printed by Hypothesis.
"""

import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from safetensors.torch import save

from sst_merge.cli.main import cli
from sst_merge.data_loader import DataSource, load_rows
from sst_merge.errors import SSTMergeError
from sst_merge.evaluation.config import EvaluationConfig
from sst_merge.evaluation.records import read_records
from sst_merge.evaluation.summary import read_summary
from sst_merge.fim_calculator import Fisher
from sst_merge.fim_calculator.structures import (
    BlockFisher,
    DiagonalFisher,
    KroneckerFisher,
    LayerFisher,
    SampleGradients,
)
from sst_merge.judges.check import read_labelled
from sst_merge.lora_utils import Adapter, BaseWeights
from sst_merge.merging.config import MergeConfig
from sst_merge.suites.custom import custom_suite
from sst_merge.training.config import TrainConfig
from sst_merge.yaml_config import load_yaml_config

TOTAL = int(os.environ.get("SST_MERGE_FUZZ", "500"))
LONGEST_S = 5.0

# Values that parsers stumble over, beside ordinary ones.
NASTY: SearchStrategy[Any] = st.sampled_from([
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**70),
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\udcff",
    "a" * 5000,
    "(.*)*x",
    "((a+)+)+$",
    "[",
    "~nobody-here/x",
    "\u202e",
    "../..",
    "1e999",
    "nan",
    [],
    {},
    [[]],
    {"a": {"b": [None]}},
    [{}],
    ["x", 1],
])
PLAIN = st.one_of(st.text(max_size=8), st.integers(-5, 300), st.floats(width=16), st.booleans(), st.none())
VALUE = NASTY | PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(max_size=4), PLAIN, max_size=3)


def damaged(content: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    """As it is, cut, with a byte changed, or with something put in."""

    def hurt(drawn: tuple[bytes, str, float, bytes]) -> bytes:
        data, how, where, other = drawn
        place = int(where * len(data))
        match how:
            case "cut":
                return data[:place]
            case "put":
                return data[:place] + other + data[place:]
            case "change":
                return data[:place] + other[:1] + data[place + 1 :]
        return data

    hows = st.sampled_from(["", "", "cut", "put", "change"])
    return st.tuples(content, hows, st.floats(0, 1), st.binary(max_size=6) | st.just(b"[" * 400)).map(hurt)


def document(fields: dict[str, SearchStrategy[Any]]) -> SearchStrategy[dict[str, Any]]:
    """Some of the fields, each as it should be or not at all as it should be, and now and then an unknown one."""
    wrong = {name: right | VALUE for name, right in fields.items()}
    extra = st.dictionaries(st.text(max_size=6), VALUE, max_size=1)
    return st.tuples(st.fixed_dictionaries({}, optional=wrong) | st.fixed_dictionaries(dict(fields)), extra).map(
        lambda both: {**both[0], **both[1]}
    )


def written(value: Any) -> bytes:
    """JSON as Python writes it, NaN and halves of pairs included."""
    return json.dumps(value, allow_nan=True).encode("utf-8", "surrogatepass")


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


@contextmanager
def within_five_seconds() -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < LONGEST_S


def refused_or_read(read: Callable[[], object]) -> None:
    """The whole contract."""
    with within_five_seconds():
        try:
            read()
        except SSTMergeError as error:
            assert len(str(error)) < 5000 and type(error) is not SSTMergeError


def fuzz(share: float) -> Callable[[Any], Any]:
    """Hypothesis's settings: a share of all inputs; a folder is used again, so its files are replaced."""
    return settings(
        max_examples=max(5, int(TOTAL * share)),
        deadline=timedelta(seconds=4 * LONGEST_S),
        suppress_health_check=list(HealthCheck),
    )


def put(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


# --- folders ---------------------------------------------------------------------------------------------------------

PREFIX = "base_model.model."
SHAPES = st.sampled_from([(2, 6), (5, 2), (2, 5), (0, 6), (2,), (), (1, 1, 1)])
KEYS = st.sampled_from([
    f"{PREFIX}model.layers.0.q_proj.lora_A.weight",
    f"{PREFIX}model.layers.0.q_proj.lora_B.weight",
    f"{PREFIX}x.lora_A.default.weight",
    f"{PREFIX}x.lora_B.default.weight",
    f"{PREFIX}x.lora_embedding_A",
    f"{PREFIX}x.lora_B.bias",
    f"{PREFIX}lm_head.weight",
    "lora_A",
    "",
    f"{PREFIX}x.lora_magnitude_vector",
    f"{PREFIX}x.base_layer.weight",
    f"{PREFIX}{'y' * 300}.lora_A.weight",
    f"{PREFIX}.lora_A.weight",
])
TYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float64, torch.bool])
ADAPTER_CONFIG = document({
    "peft_type": st.just("LORA"),
    "r": st.just(2),
    "lora_alpha": st.integers(1, 9),
    "rank_pattern": st.just({"q_proj": 2}),
    "alpha_pattern": st.just({"(q|k)_proj": 4.0}),
    "target_modules": st.just(["q_proj"]),
    "use_rslora": st.booleans(),
    "fan_in_fan_out": st.booleans(),
    "lora_bias": st.booleans(),
    "modules_to_save": st.just(["lm_head"]),
    "bias": st.just("none"),
    "base_model_name_or_path": st.text(max_size=5),
    "task_type": st.just("CAUSAL_LM"),
    "init_lora_weights": st.just(True),
})
RIGHT = {f"{PREFIX}model.layers.0.q_proj.lora_A.weight": (2, 6), f"{PREFIX}model.layers.0.q_proj.lora_B.weight": (5, 2)}


def packed(drawn: tuple[dict[str, tuple[tuple[int, ...], torch.dtype]], bool]) -> bytes:
    tensors = {key: torch.ones(shape).to(dtype) for key, (shape, dtype) in drawn[0].items()}
    if drawn[1]:
        tensors |= {key: torch.ones(shape) for key, shape in RIGHT.items()}
    return save(tensors, metadata={"format": "pt"})


WEIGHTS = damaged(st.tuples(st.dictionaries(KEYS, st.tuples(SHAPES, TYPES), max_size=3), st.booleans()).map(packed))


@fuzz(0.22)
@given(config=damaged(ADAPTER_CONFIG.map(written)), weights=WEIGHTS, drop=st.booleans())
def test_adapter_folders(config: bytes, weights: bytes, drop: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    put(folder, "adapter_config.json", config)
    put(folder, "adapter_model.safetensors", weights)

    def read() -> None:
        adapter = Adapter.load(folder, drop_modules_to_save=drop)
        adapter.check_values()
        for module in adapter.modules:
            adapter.factors(module)

    refused_or_read(read)


@fuzz(0.04)
@given(
    index=damaged(document({"weight_map": st.just({"a.weight": "model.safetensors"})}).map(written)), weights=WEIGHTS
)
def test_folders_of_base_weights(index: bytes, weights: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    put(folder, "model.safetensors.index.json", index)
    put(folder, "model.safetensors", weights)
    refused_or_read(lambda: BaseWeights.load(folder).weight("a"))


# --- configurations and data -----------------------------------------------------------------------------------------


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


# --- statistics ------------------------------------------------------------------------------------------------------

TENSOR = st.tuples(
    st.sampled_from([(4, 4), (2, 2), (3, 2, 2), (2, 3), (0, 0), ()]),
    st.sampled_from([1.0, float("nan"), -1.0, 1e308]),
    TYPES,
)


def statistics() -> dict[str, LayerFisher]:
    """A right file of every structure."""
    eye = torch.eye(2, dtype=torch.float64)
    return {
        "block": BlockFisher(samples=3, outer=torch.eye(4, dtype=torch.float64), core_shape=(2, 2)),
        "diagonal": DiagonalFisher(samples=3, gradient_sum=eye, square_sum=eye + 1),
        "kronecker": KroneckerFisher(samples=3, tokens=5, gradient_outer=eye, input_outer=2 * eye),
        "lowrank": SampleGradients(samples=3, rows=torch.ones(3, 2, 2)),
    }


@fuzz(0.12)
@given(
    structure=st.sampled_from(["block", "diagonal", "kronecker", "lowrank"]),
    header=document({
        "samples": st.just(3),
        "fingerprint": st.just("f"),
        "settings": st.just({"share": 0.5}),
        "origin": st.just("e@p"),
    }),
    entry=document({"weight": st.just(1.0)}),
    counts=st.none() | VALUE,
    tensor=st.none() | TENSOR,
    hurt=st.booleans(),
    data=st.data(),
)
def test_statistics(
    structure: str,
    header: Any,
    entry: Any,
    counts: Any,
    tensor: Any,
    hurt: bool,
    data: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.getbasetemp() / "f.safetensors"
    Fisher(structure, {"m": statistics()[structure]}, 3, "f", "e@p", {"share": 0.5}).save(file)
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stream:
        kept = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        right = json.loads(stream.metadata()["sst_merge"])
    right |= header
    if isinstance(right.get("layers"), dict):
        right["layers"]["m"] |= entry | ({} if counts is None else {"counts": counts})
    if tensor is not None:
        shape, value, dtype = tensor
        kept[next(iter(kept))] = torch.full(shape, value, dtype=torch.float64).to(dtype)
    whole = save(kept, metadata={"sst_merge": json.dumps(right)})
    file.write_bytes(data.draw(damaged(st.just(whole))) if hurt else whole)
    refused_or_read(lambda: Fisher.load(file).matvec({}))


# --- flags -----------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from([
    "0",
    "-1",
    "1",
    "2",
    "nan",
    "inf",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "x",
    "",
    "[",
    "{a: 1}",
    "{" * 300,
    "2024-13-45",
    "a=b",
    "name=x,path=y",
    "sst",
    "ties",
    "~nobody-here",
    "\udcff",
    "cpu",
    "float32",
    ".",
    "/",
    "x" * 3000,
    "&a [*a]",
    "null",
    "true",
])
COMMANDS: dict[str, list[str]] = {
    "merge": [
        "--skill",
        "--safety",
        "--calibration",
        "--log-file",
        "--verbose",
        "--adapter",
        "--set",
        "--method",
        "--output",
        "--rank",
        "--energy",
        "--dtype",
        "--seed",
        "--device",
        "--compute-dtype",
        "--base-model",
        "--data-harm-path",
        "--data-harm-where",
        "--data-batch-size",
        "--force",
        "--dry-run",
    ],
    "inspect": ["--negligible", "--top", "--json", "--json-file", "--no-signs"],
    "evaluate": [
        "--base",
        "--suite",
        "--out",
        "--adapter",
        "--samples",
        "--attempts",
        "--seed",
        "--batch-size",
        "--max-new-tokens",
        "--judge",
        "--judge-check",
        "--labels",
        "--exclude",
        "--reference",
        "--device",
    ],
    "train": ["--base", "--data", "--output", "--rank", "--seed", "--device", "--dry-run", "--epochs", "--max-length"],
    "methods": ["--json", "--quiet", "--log-file"],
    "fisher add": ["--out", "--force"],
    "experiment exp1": ["--config", "--seeds", "--methods", "--num-experts", "--workers", "--dry-run"],
}
SWITCHES = {"--force", "--dry-run", "--json", "--no-signs", "--verbose", "--quiet"}
LINES = st.sampled_from(sorted(COMMANDS)).flatmap(
    lambda command: st.tuples(
        st.just(command.split()),
        st.lists(WORDS | st.just("ADAPTER"), max_size=2),
        st.lists(st.tuples(st.sampled_from(COMMANDS[command]), WORDS | st.just("ADAPTER")), max_size=4),
    )
)


@fuzz(0.08)
@given(drawn=LINES)
def test_command_lines(
    drawn: Any, build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "adapter"
    if not folder.exists():
        build.random_adapter({"m": (4, 3)}, name="a", rank=1).save(folder)
    command, places, flags = drawn
    words = [*command, *places]
    for flag, value in flags:
        words += [flag] if flag in SWITCHES else [flag, value]
    words = [str(folder) if word == "ADAPTER" else word for word in words]
    monkeypatch.chdir(folder.parent)
    with within_five_seconds():
        done = CliRunner().invoke(cli, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    assert done.exit_code in {0, 2} and len(done.output) < 50_000
