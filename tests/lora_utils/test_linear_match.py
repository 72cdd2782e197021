"""The linear engine against Python's own, and on what Python's own never ends with."""

import random
import re
import time

import pytest

from sst_merge.lora_utils.linear_match import LinearPattern, full_matcher
from sst_merge.lora_utils.patterns import ModulePatterns

PIECES = [
    "a",
    "b",
    ".",
    r"\.",
    r"\d",
    r"\w",
    r"\s",
    "[ab]",
    "[^a]",
    r"[\d_]",
    "[a-c1]",
    "^",
    "$",
    r"\b",
    r"\B",
    "ab",
    "1",
]
AFTER = ["", "", "", "*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?", "+?", "??"]
EVIL = [
    "(.*)*x",
    "((a+)+)+$",
    "(.*.*)*y",
    "(.|.)" * 30 + "z",
    "(.*)" * 12 + "z",
    r"(\w|.)+z",
    ".?" * 60 + "z",
    "(x?){60}z",
    "(?:){999999999}x",
]


def expression(rng: random.Random, depth: int = 2) -> str:
    parts = []
    for _ in range(rng.randint(1, 4)):
        if depth and rng.random() < 0.3:
            inner = "|".join(expression(rng, depth - 1) for _ in range(rng.randint(1, 3)))
            parts.append(f"{rng.choice(['(', '(?:', '(?P<n>'])}{inner})" + rng.choice(AFTER))
        else:
            piece = rng.choice(PIECES)
            parts.append(piece + ("" if piece in {"^", "$", r"\b", r"\B"} else rng.choice(AFTER)))
    return "".join(parts)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_texts_match(seed: int) -> None:
    rng = random.Random(seed)
    compared = matched = 0
    for _ in range(40):
        pattern = expression(rng)
        try:
            oracle = re.compile(pattern)
        except re.error:
            continue
        ours = LinearPattern(pattern)
        for _ in range(20):
            text = "".join(
                rng.choices("ab1_. c", k=rng.randint(1, 7))
            )  # not empty: there Python disagrees with itself on \\B
            assert ours.fullmatch(text) == (oracle.fullmatch(text) is not None), (pattern, text)
            compared += 1
            matched += oracle.fullmatch(text) is not None
    assert compared > 400 and matched > 10


@pytest.mark.parametrize("pattern", EVIL)
def test_nothing_takes_forever(pattern: str) -> None:
    began = time.process_time()
    module = "model.layers.10.self_attn.q_proj" * 8
    assert not full_matcher(pattern)(module)
    assert ModulePatterns({pattern: 2.0}).find(module) is None
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a)\1", "groupref"),
        ("(?=a)b", "assert"),
        ("(?<!a)b", "assert not"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        ("((a{90}){90}){90}", "repetitions are too many"),
        ("(", "not a regular expression"),
        ("(" * 3000 + ")" * 3000, ""),
    ],
)
def test_what_has_no_such_form_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LinearPattern(pattern)


def test_steps_are_computed_once() -> None:
    """As unsloth writes target_modules; two thousand names."""
    parts = "self_attn|attention|attn|mlp|feed_forward|ffn|dense"
    layers = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    pattern = rf"(?:.*?(?:language|text).*?(?:{parts}).*?(?:{layers}).*?)"
    pattern += rf"|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{parts})\.(?:{layers}))"
    modules = [
        f"model.layers.{i}.{part}.{name}" for i in range(500) for part in ("mlp", "norm") for name in ("up_proj", "x")
    ]
    matches, oracle = full_matcher(pattern), re.compile(pattern)
    began = time.process_time()
    found = [matches(module) for module in modules]
    assert time.process_time() - began < 1
    assert found == [oracle.fullmatch(module) is not None for module in modules] and sum(found) == 500
