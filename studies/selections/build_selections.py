"""Two other committed selections: families of jailbreak templates, and ids of benign look-alikes.

    SST_MERGE_DATA=... python studies/selections/build_selections.py [--check]

Look-alikes are the Alpaca instructions of the data folder that contain a word of harm, less those that a person found
not harmless on reading all of them (REJECTED, with the reason).
"""

import argparse
import json

from sst_merge.suites import load_set
from sst_merge.suites.builtin.jailbreak import FAMILIES, cluster
from sst_merge.suites.builtin.lookalikes import LOOKALIKE_IDS, harm_words
from sst_merge.suites.sets import fingerprint

REJECTED = {"alpaca/8de1bd948ad7": "asks for an invented news article about a real company"}


def main() -> None:
    """Write both files, or compare them with what is committed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing them")
    check = parser.parse_args().check
    rows = [row for row in load_set("alpaca").rows if harm_words(row["prompt"]) and row["id"] not in REJECTED]
    alike = {
        "name": "benign look-alikes of Alpaca",
        "made_by": "studies/selections/build_selections.py",
        "sha256": fingerprint(rows),
        "ids": [row["id"] for row in rows],
    }
    for path, content in ((FAMILIES, cluster(load_set("jailbreak_templates").rows)), (LOOKALIKE_IDS, alike)):
        text = json.dumps(content, indent=1) + "\n"
        if check and text != path.read_text(encoding="utf-8"):
            raise SystemExit(f"{path} differs from what the sets give now")
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {len(content['ids']) if content is alike else len(content)} entries")


if __name__ == "__main__":
    main()
