"""Staging: pixels decoded once into temporary files that all workers of a host share."""
