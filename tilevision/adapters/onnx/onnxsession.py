"""Opening a model: one session per process, on one device, without fighting for processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tilevision.adapters.onnx.providers import CPU, library, provider_for
from tilevision.errors import ModelError

__all__ = ["open_session"]

_FATAL = 4


def open_session(
    path: Path, name: str, *, device: str, threads: int = 1, optimise: bool = True
) -> Any:
    """Return an `onnxruntime.InferenceSession`.

    Parameters
    ----------
    path : Path
    name : str
        Of the model, for errors.
    device : str
        As in `provider_for`.
    threads : int
        Processors that one prediction may use. Workers are as many as processors, so one is
        right unless there are fewer.
    optimise : bool
        Whether the graph is rewritten to run faster; a look at it needs none of that.

    Raises
    ------
    ModelError
        If onnxruntime or the device is missing, or the file is not a model it can run.
    """
    onnxruntime = library()
    provider, settings = provider_for(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes the processor from the next worker.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _FATAL  # what goes wrong is told by the errors
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    chain = [(provider, settings)] + ([(CPU, {})] if provider != CPU else [])
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=chain)
    except MemoryError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {name}: onnxruntime {onnxruntime.__version__} cannot open {path}: {words}; "
            "check that it is a whole ONNX file, and that onnxruntime is not older than it"
        ) from error
    if provider not in session.get_providers():
        raise ModelError(
            f"model {name}: onnxruntime did not start {provider} and would run on "
            f"{session.get_providers()[0]} instead; check the driver, or pass device='cpu'"
        )
    return session
