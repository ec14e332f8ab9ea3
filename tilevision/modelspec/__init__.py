"""What a model is: the spec that travels to workers, and what is built of it there.

Which spec a name, a file, a function or an object stands for is decided in `tilevision.catalogue`.
Named `modelspec` because `model` and `models` are public functions, and a package attribute
cannot be both a function and a submodule.
"""

from tilevision.modelspec.build import (
    build,
    calls_of,
    may_wait,
    on_device,
    processes,
    runtime,
    unwrap,
    usual_workers,
    waits,
    within,
)
from tilevision.modelspec.calls import Calls, Wish, is_out_of_memory, joined
from tilevision.modelspec.spec import (
    Answers,
    HostedModel,
    Model,
    ModelSpec,
    Price,
    Stage,
    Steps,
    Usage,
    count,
    counting,
)

__all__ = [
    "Answers",
    "Calls",
    "HostedModel",
    "Model",
    "ModelSpec",
    "Price",
    "Stage",
    "Steps",
    "Usage",
    "Wish",
    "build",
    "calls_of",
    "count",
    "counting",
    "is_out_of_memory",
    "joined",
    "may_wait",
    "on_device",
    "processes",
    "runtime",
    "unwrap",
    "usual_workers",
    "waits",
    "within",
]
