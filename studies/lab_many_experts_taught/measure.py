"""Sets of 4 to 20 experts merged, skills alone and with safety on top: experiment 2 on the lab, with today's teachers.

The sets are those of ``studies/lab_many_experts``, which has more methods, and SST-Merge with the steps that its
teachers took before. Finished cells lie in ``cells.jsonl.xz`` beside the page and are unpacked first; experts that
unfinished cells need are trained. Another kind of processor trains other last bits, which are other experts.

    python studies/lab_many_experts_taught/measure.py --out studies/lab_many_experts_taught --results DIR
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import packed_study

if __name__ == "__main__":
    packed_study(__doc__, Path(__file__), ("exp2",), "Many experts on the lab, today's teachers")
