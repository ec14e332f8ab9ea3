"""Analyse an image too big for your model, from a notebook, without losing a tile.

The public names stand in ``__init__.pyi`` and are resolved on first use, so that
``import tilevision`` is cheap.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
