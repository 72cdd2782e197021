"""Experiment 2 from a checkout; the same as `sst-merge experiment exp2`, flags included."""

import sys

from sst_merge.cli.main import cli

if __name__ == "__main__":
    cli(["experiment", "exp2", *sys.argv[1:]], prog_name="sst-merge")
