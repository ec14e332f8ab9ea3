"""Detectors of the libraries people have: PyTorch, transformers, Ultralytics and SAHI.

A model is known by the type of the object or by what stands in its file; no library is
imported for that. What travels to the workers is a path and the identity of its content:
an object is first saved, as it is now, under the temp folder of this machine.
"""

from tilevision.adapters.frameworks.frameworkkind import kind_of
from tilevision.adapters.frameworks.frameworkspec import declare, declare_object, declare_saved

__all__ = ["declare", "declare_object", "declare_saved", "kind_of"]
