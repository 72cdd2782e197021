"""Any causal language model of the Hugging Face hub as a world: tasks as JSONL, all other prompts from files."""
