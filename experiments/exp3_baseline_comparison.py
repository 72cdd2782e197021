"""Experiment 3 from a checkout; the same as `sst-merge experiment exp3`, flags included."""

import sys

from sst_merge.cli.main import cli

if __name__ == "__main__":
    cli(["experiment", "exp3", *sys.argv[1:]], prog_name="sst-merge")
