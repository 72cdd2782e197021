"""Skills merged into the aligned base of the lab: how many refusals are lost, by experiment 1 on a few methods.

python studies/lab_drift/measure.py --out studies/lab_drift --results results/lab_drift
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import figures_of
from study import study_options, write_page

from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.run import Experiments


def main() -> None:
    """Run what is missing, and write the page."""
    parser = study_options(__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("measured.yaml"))
    parser.add_argument("--results", type=Path, required=True, help="working folder: cells, tables, pictures")
    options = parser.parse_args()
    experiments = Experiments(load_experiment_config(options.config), options.results)
    experiments.run("exp1")
    made_by = "`studies/lab_drift/measure.py` from the cells of its run of experiment 1"
    page = experiments.page(["exp1"], title="Skills merged into an aligned base", made_by=made_by)
    write_page(options.out, page, figures_of(options.results, ["exp1"])["exp1"])


if __name__ == "__main__":
    main()
