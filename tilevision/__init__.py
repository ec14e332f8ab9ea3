"""Analyse an image too big for your model, without losing a tile."""
