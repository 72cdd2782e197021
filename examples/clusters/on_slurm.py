"""Workers on SLURM for ``sst-merge ... --scheduler scheduler.json``; change what your cluster calls otherwise.

pip install dask-jobqueue
python on_slurm.py &                   # on a login node; ends the jobs when it is ended
sst-merge search search.yaml --scheduler scheduler.json
"""

import json
import signal
from pathlib import Path

from dask_jobqueue import SLURMCluster

JOBS = 8

cluster = SLURMCluster(
    queue="gpu",
    walltime="04:00:00",
    cores=1,  # one thread: a model serves one piece of work at a time
    processes=1,
    job_cpu=4,  # what SLURM sets aside
    memory="48GB",
    job_extra_directives=["--gres=gpu:1"],
    worker_extra_args=["--resources", "GPU=1"],
    job_script_prologue=["source $HOME/sst-merge/.venv/bin/activate", "export HF_HOME=$HOME/shared/huggingface"],
)
# As many jobs as there is work for; one, so that the first worker can be looked at.
cluster.adapt(minimum_jobs=1, maximum_jobs=JOBS)
Path("scheduler.json").write_text(json.dumps({"address": cluster.scheduler_address}), encoding="utf-8")
print(f"{cluster.scheduler_address}: workers come as SLURM starts them; Ctrl+C ends them")
try:
    signal.pause()
finally:
    cluster.close()
