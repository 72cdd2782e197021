"""Every registered method on one skill and safety, what a merge costs, and SST-Merge with one part changed at a time.

Experiment 3 on the lab, on ``add``: alone it chose no default, beside two other skills it did, on dev prompts of three
seeds. One seed of adapters here. Finished cells lie in ``cells.jsonl.xz`` beside the page and are unpacked first, so
that several sessions can share the hours that it takes; adapters that unfinished cells need are trained. A cell belongs
to the code that measured it; with ``--keep-older`` a cell of other code counts where everything else is equal, and the
page lists the commits.

    python studies/lab_methods/measure.py --out studies/lab_methods --results results/lab_methods
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import packed_study

if __name__ == "__main__":
    packed_study(__doc__, Path(__file__), ("exp3",), "Every method on the lab")
