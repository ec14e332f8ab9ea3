"""The kinds of model: the names, suffixes and classes that stand for each, and its module."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from tilevision.modelspec import Stage

__all__ = ["ADAPTERS", "Adapter", "adapter_of"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One kind of model.

    Parameters
    ----------
    kind : str
        What it is called: for a model with a name, that name.
    loader : str
        ``"package.module:attribute"``, the factory of its specs. Its module is imported when a
        model of this kind is wanted.
    suffixes : tuple of str
        Of files that hold such models.
    base : str
        ``"module:class"`` whose instances are such models, where objects are taken.
    library : str
        What it needs, as it is imported.
    extra : str
        The optional dependency that brings the library, as in ``pip install tilevision[extra]``.
    stages : tuple of str
        What a model with a name can serve; empty for kinds that are known by file or object.
    summary : str
        One line, for lists of models.
    recorded : str
        What stands for the loader in the identity of models with a name: where its module has
        moved, the path that stored tiles were first kept under. Empty: the loader's own path.
    """

    kind: str
    loader: str
    suffixes: tuple[str, ...] = ()
    base: str = ""
    library: str = ""
    extra: str = ""
    stages: tuple[Stage, ...] = ()
    summary: str = ""
    recorded: str = ""

    @property
    def remedy(self) -> str:
        """The command that installs the library."""
        return (
            f"pip install 'tilevision[{self.extra}]'"
            if self.extra
            else f"pip install {self.library}"
        )

    @property
    def module(self) -> ModuleType:
        """The adapter's module, imported now if it was not yet."""
        return importlib.import_module(self.loader.partition(":")[0])


_TORCH = "tilevision.adapters.frameworks.torch_modules:load"

# The order matters where an object is of several classes: a TorchScript module is a Module, too.
ADAPTERS = (
    Adapter(
        "blobs",
        "tilevision.adapters.blobs:load",
        stages=("tile",),
        summary="stars, particles, cells",
    ),
    Adapter(
        "nuclei",
        "tilevision.adapters.nuclei:load",
        stages=("tile",),
        summary="nuclei in stained tissue",
    ),
    Adapter(
        "textlines",
        "tilevision.adapters.textlines:load",
        stages=("tile",),
        summary="lines and words",
    ),
    Adapter(
        "openai",
        "tilevision.adapters.hosted:load",
        library="openai",
        extra="vlm",
        stages=("moderation", "tile", "synthesis"),
        summary="any OpenAI-compatible endpoint: 'openai:MODEL'",
    ),
    Adapter(
        "onnx", "tilevision.adapters.onnx:load", (".onnx",), library="onnxruntime", extra="onnx"
    ),
    Adapter(
        "sahi",
        "tilevision.adapters.frameworks.sahi_models:load",
        base="sahi.models.base:DetectionModel",
        library="sahi",
    ),
    Adapter(
        "transformers",
        "tilevision.adapters.frameworks.transformers_pipelines:load",
        base="transformers.pipelines.base:Pipeline",
        library="transformers",
        extra="transformers",
    ),
    Adapter(
        "timm",
        "tilevision.adapters.frameworks.timm_models:load",
        library="timm",
        extra="timm",
    ),
    Adapter(
        "timm-repository",
        "tilevision.adapters.hub.timm_repository:load",
        library="timm",
        extra="timm",
    ),
    Adapter(
        "ultralytics",
        "tilevision.adapters.frameworks.ultralytics_models:load",
        (".pt",),
        "ultralytics.engine.model:Model",
        library="ultralytics",
        extra="ultralytics",
    ),
    Adapter(
        "torchscript",
        _TORCH,
        (".torchscript", ".pt"),
        "torch.jit._script:ScriptModule",
        library="torch",
        extra="torch",
    ),
    Adapter(
        "export",
        _TORCH,
        (".pt2",),
        "torch.export.exported_program:ExportedProgram",
        library="torch",
        extra="torch",
    ),
    Adapter(
        "torch",
        _TORCH,
        (".pt", ".pth"),
        "torch.nn.modules.module:Module",
        library="torch",
        extra="torch",
    ),
)


def adapter_of(kind: str) -> Adapter:
    """Return the adapter of a kind of model, as ``"onnx"``."""
    return next(adapter for adapter in ADAPTERS if adapter.kind == kind)
