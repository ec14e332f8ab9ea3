"""Detectors by file: ``model="weights.onnx"`` through onnxruntime.

What the file says of itself (sizes, class names, task) is read from it; what it does not say
is worked out from the shapes of its outputs, and declared with `tilevision.model` where that
leaves a doubt. Everything that was decided stands in the spec's `params`.
"""

from tilevision.adapters.onnx.declaring import declare
from tilevision.adapters.onnx.detector import load
from tilevision.adapters.onnx.providers import processes, runtime

__all__ = ["declare", "load", "processes", "runtime"]
