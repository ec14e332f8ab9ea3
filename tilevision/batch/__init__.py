"""Many images as one run: one cluster, one checkpoint, a row and a result for each image."""

from tilevision.batch.batch import Batch
from tilevision.batch.collection import analyze_many, resume, resume_run

__all__ = ["Batch", "analyze_many", "resume", "resume_run"]
