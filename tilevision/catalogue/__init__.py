"""From what a user calls a model to its spec: a name, a file, a function, an object."""

from tilevision.catalogue.registry import Registered, models, register_model
from tilevision.catalogue.resolve import model, resolve

__all__ = ["Registered", "model", "models", "register_model", "resolve"]
