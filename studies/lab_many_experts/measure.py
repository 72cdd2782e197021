"""Sets of 2 to 20 experts merged, skills alone and with safety on top: experiment 2 on the lab.

Finished cells lie in ``cells.jsonl.xz`` beside the page and are unpacked first, so that several sessions can share the
hours that it takes; adapters that unfinished cells need are trained. A cell belongs to the code that measured it; with
``--keep-older`` a cell of other code counts where everything else is equal, and the page lists the commits.

    python studies/lab_many_experts/measure.py --out studies/lab_many_experts --results results/lab_many_experts
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import figures_of, finish, packed_options
from study import write_page

from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.run import Experiments

_EXPERIMENTS = ("exp2",)


def main() -> None:
    """Run what is missing, pack, write the page."""
    options = packed_options(__doc__, Path(__file__).with_name("measured.yaml")).parse_args()
    experiments = Experiments(load_experiment_config(options.config), options.results)
    if not finish(experiments, _EXPERIMENTS, options):
        return
    made_by = "`studies/lab_many_experts/measure.py` from its packed cells"
    page = experiments.page(_EXPERIMENTS, title="Many experts on the lab", made_by=made_by)
    write_page(options.out, page, figures_of(options.results, _EXPERIMENTS))


if __name__ == "__main__":
    main()
