"""What a result says: units, tables, digest, heatmap, and the account of a run."""
