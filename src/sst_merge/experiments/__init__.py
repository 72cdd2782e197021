"""The three experiments, in any world: cells on disk, each finished once, and reports made from them alone."""
