"""The map of a run over the picture: what is shown of it, and how it is painted."""
