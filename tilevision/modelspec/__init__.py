"""What a model is, and how one is asked for.

Named `modelspec` because `model` and `models` are public functions, and a package
attribute cannot be both a function and a submodule.
"""

from tilevision.modelspec.build import build, on_device, processes, runtime, unwrap
from tilevision.modelspec.price import Answers, Price, Usage, count, counting
from tilevision.modelspec.registry import Registered, models, register_model
from tilevision.modelspec.resolve import model, resolve
from tilevision.modelspec.spec import HostedModel, Model, ModelSpec, Stage

__all__ = [
    "Answers",
    "HostedModel",
    "Model",
    "ModelSpec",
    "Price",
    "Registered",
    "Stage",
    "Usage",
    "build",
    "count",
    "counting",
    "model",
    "models",
    "on_device",
    "processes",
    "register_model",
    "resolve",
    "runtime",
    "unwrap",
]
