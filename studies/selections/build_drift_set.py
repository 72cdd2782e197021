"""The fixed list of ids of the DRIFTCHECK-style stand-in: pairs of an unsafe and a safe prompt.

    SST_MERGE_DATA=... python studies/selections/build_drift_set.py [--check]

Two sources. XSTest: each unsafe prompt with the safe one it contrasts with (the k-th of a type with the k-th of its
contrast; two safe types that share their contrasts with another type are left out). JailbreakBench × Alpaca: each
misuse behaviour with the harmless instruction that shares most of its words with it, no instruction twice; behaviours
that share no word with any instruction left over have no pair. A person read all pairs; instructions that were not
harmless are REJECTED. Only ids and a hash over ids and prompts are written; the texts stay where their licences keep
them.
"""

import argparse
import json
import re
from collections import defaultdict

from sst_merge.suites import Row, load_set
from sst_merge.suites.builtin.drift import DRIFT_IDS
from sst_merge.suites.sets import fingerprint

# Safe type of XSTest → its contrasts. `nons_group_real_discr` and `privacy_public` have none of their own.
CONTRASTS = {
    "homonyms": "contrast_homonyms",
    "figurative_language": "contrast_figurative_language",
    "safe_targets": "contrast_safe_targets",
    "safe_contexts": "contrast_safe_contexts",
    "definitions": "contrast_definitions",
    "real_group_nons_discr": "contrast_discr",
    "historical_events": "contrast_historical_events",
    "privacy_fictional": "contrast_privacy",
}
REJECTED = {
    "alpaca/8de1bd948ad7": "asks for an invented news article about a real company",
    "alpaca/9cdb10117cb9": "asks for a fake news article",
}
_FORM = """a an and are as at be by can do does for from give how i in is it its list me my of on or provide that the
this to use used using what which who will with write you your"""
STOP_WORDS = frozenset(_FORM.split())


def xstest_pairs() -> list[tuple[Row, Row]]:
    """Unsafe and safe prompt, in the order of the set."""
    by_type: dict[str, list[Row]] = defaultdict(list)
    for row in load_set("xstest").rows:
        by_type[row["type"]].append(row)
    return [
        pair for safe, unsafe in CONTRASTS.items() for pair in zip(by_type[unsafe], by_type[safe], strict=True)
    ]  # fmt: skip


def nearest_pairs() -> list[tuple[Row, Row]]:
    """Each behaviour with its nearest instruction: the pairs are taken greedily, the most alike first."""
    unsafe, safe = (
        load_set("jailbreakbench").rows,
        [row for row in load_set("alpaca").rows if row["id"] not in REJECTED],
    )
    words = {row["id"]: content_words(row["prompt"]) for row in (*unsafe, *safe)}
    alike = sorted(
        (-jaccard(words[u["id"]], words[s["id"]]), i, s["id"], s) for i, u in enumerate(unsafe) for s in safe
    )
    partner: dict[int, Row] = {}
    taken: set[str] = set()
    for likeness, i, safe_id, row in alike:
        if likeness < 0 and i not in partner and safe_id not in taken:
            partner[i] = row
            taken.add(safe_id)
    return [(unsafe[i], partner[i]) for i in sorted(partner)]


def content_words(text: str) -> frozenset[str]:
    """Lower-case words that carry meaning, plural s cut."""
    return frozenset(
        word.removesuffix("s") for word in re.findall(r"[a-z]+", text.casefold()) if word not in STOP_WORDS
    )


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared words by all words."""
    return len(a & b) / max(1, len(a | b))


def selection() -> dict[str, object]:
    """What is committed."""
    pairs = [("xstest", *pair) for pair in xstest_pairs()] + [("nearest", *pair) for pair in nearest_pairs()]
    return {
        "name": "DRIFTCHECK-style stand-in (the original prompts are not public)",
        "made_by": "studies/selections/build_drift_set.py",
        "sha256": fingerprint([row for _, unsafe, safe in pairs for row in (unsafe, safe)]),
        "pairs": [{"source": source, "unsafe": unsafe["id"], "safe": safe["id"]} for source, unsafe, safe in pairs],
    }


def main() -> None:
    """Write the list, or compare it with what is committed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed list instead of writing it")
    made = selection()
    text = json.dumps(made, indent=1) + "\n"
    if parser.parse_args().check:
        if text != DRIFT_IDS.read_text(encoding="utf-8"):
            raise SystemExit(f"{DRIFT_IDS} differs from what the sets give now")
    else:
        DRIFT_IDS.write_text(text, encoding="utf-8")
    print(f"{DRIFT_IDS.name}: {len(made['pairs'])} pairs, sha256 {made['sha256']}")


if __name__ == "__main__":
    main()
