"""Almost right inputs: what every fuzzer here draws from, and the whole contract that it holds the package to.

Every input either works or is refused by an error of this package, within five seconds. ``make fuzz`` tries 10,000, the
suite 500; the environment variable SST_MERGE_FUZZ says how many. An input that fails is shrunk and printed by
Hypothesis.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sst_merge.errors import SSTMergeError

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
TYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float64, torch.bool])
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
