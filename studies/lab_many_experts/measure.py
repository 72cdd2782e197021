"""Sets of 2 to 20 experts merged, skills alone and with safety on top: experiment 2 on the lab.

Finished cells lie in ``cells.jsonl.xz`` beside the page and are unpacked first, so that several sessions can share the
hours that it takes; adapters that unfinished cells need are trained. A cell belongs to the code that measured it; with
``--keep-older`` a cell of other code counts where everything else is equal, and the page lists the commits.

    python studies/lab_many_experts/measure.py --out studies/lab_many_experts --results results/lab_many_experts
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import packed_study

if __name__ == "__main__":
    packed_study(__doc__, Path(__file__), ("exp2",), "Many experts on the lab")
