"""Task files for lm-evaluation-harness, and the functions they name."""
