"""Adapters: how each kind of model is built on a worker and asked for the findings of a tile.

`ADAPTERS` is the one list of them: which names, file suffixes and classes of objects stand for
which module. An adapter is imported when a model of its kind is wanted, and no other with it.

Each module has ``load(spec)``, which returns the model, and may have ``runtime(spec)`` and
``processes(spec)`` where it can choose a device, and ``declare(…)`` where it works out itself what
a model needs. What functions and objects may return is read by `tilevision.adapters.answers`;
what is stored of it is decided by `tilevision.adapters.compaction`.
"""

from tilevision.adapters.table import ADAPTERS, Adapter, adapter_of

__all__ = ["ADAPTERS", "Adapter", "adapter_of"]
