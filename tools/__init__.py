"""The fifteen tools, and nothing else."""
