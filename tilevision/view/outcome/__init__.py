"""What a run found, as numbers, distributions, checks, text and a table."""
