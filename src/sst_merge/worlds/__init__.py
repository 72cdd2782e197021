"""Worlds that merges are measured in: bases, adapters, prompts and what counts as an answer."""
