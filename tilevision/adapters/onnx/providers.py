"""Where a model runs: the execution provider for a device, and the session opened on it."""

from __future__ import annotations

import importlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from tilevision.adapters.gpuclaims import claimed_gpu, gpus
from tilevision.adapters.modelfiles import missing_parts
from tilevision.adapters.onnx.graph import nodes_of
from tilevision.errors import ModelError
from tilevision.modelspec import ModelSpec

__all__ = [
    "CPU",
    "Provider",
    "bound_device",
    "library",
    "open_session",
    "processes",
    "provider_for",
    "run_on",
    "runtime",
]

CPU = "CPUExecutionProvider"
PROVIDERS = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "mps": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_GPU_REMEDY = "pip uninstall onnxruntime && pip install 'tilevision[onnx-gpu]'"
REMEDIES = {
    "cuda": _GPU_REMEDY,
    "tensorrt": f"{_GPU_REMEDY} tensorrt",
    "mps": "pip install 'tilevision[onnx]' on a Mac",
    "openvino": "pip uninstall onnxruntime && pip install onnxruntime-openvino",
}
_FATAL = 4  # of onnxruntime's levels of logging
AUTOMATIC = ("cuda", "mps", "openvino")  # TensorRT compiles for minutes: it has to be asked for
NVIDIA = ("cuda", "tensorrt")

# A model of one node, y(1) = x(1). Opening it shows whether a provider works on this machine,
# which its being compiled into onnxruntime does not.
_IDENTITY = bytes.fromhex(
    "08073a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a02080162"
    "0f0a0179120a0a08080112040a02080142040a00100d"
)

Provider = tuple[str, dict[str, str]]


def library() -> Any:
    """Return onnxruntime.

    Raises
    ------
    ModelError
        If it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ModelError(
            f"ONNX models need onnxruntime ({error}): pip install 'tilevision[onnx]', or "
            "'tilevision[onnx-gpu]' for an NVIDIA GPU."
        ) from error


def provider_for(device: str) -> Provider:
    """Return onnxruntime's name and options of what runs models on `device` here.

    Parameters
    ----------
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"openvino"``,
        ``"tensorrt:0"``. Without a number, processes on one machine share its GPUs out.

    Raises
    ------
    ModelError
        If the device is unknown, or is not here.
    """
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = next((kind for kind in AUTOMATIC if _works(kind)), "cpu")
    elif kind not in PROVIDERS or (number and not (number.isdecimal() and kind in NVIDIA)):
        raise ModelError(
            f"Device {device!r} is not known to onnxruntime; give 'auto', 'cpu', 'cuda:0', 'mps', "
            "'openvino' or 'tensorrt:0'."
        )
    elif not _works(kind):
        raise ModelError(
            f"Device {device!r} was asked for, but onnxruntime {library().__version__} has no "
            f"{PROVIDERS[kind]} that works here; there is {', '.join(_present())}. For {kind}: "
            f"{REMEDIES[kind]}; or leave device out."
        )
    if kind not in NVIDIA:
        return PROVIDERS[kind], {}
    index = int(number) if number else claimed_gpu(gpus())
    if index >= gpus():
        raise ModelError(
            f"Device {device!r} was asked for, but this machine shows {gpus()} GPU"
            f"{'s' if gpus() != 1 else ''}, numbered from 0; check CUDA_VISIBLE_DEVICES."
        )
    return PROVIDERS[kind], {"device_id": str(index)}


def runtime(spec: ModelSpec) -> str:
    """Return what this process would run the model on: library and provider.

    Raises
    ------
    ModelError
        If onnxruntime or the device asked for is not here.
    """
    name, options = provider_for(spec.device)
    where = f" on GPU {options['device_id']}" if options else ""
    return f"onnxruntime {library().__version__}, {name}{where}"


def processes(spec: ModelSpec) -> int | None:
    """Return how many processes of this machine should hold the model; None: no matter.

    One for each GPU where it runs on GPUs, since each holds the weights once more and none of
    them is faster for it.
    """
    kind, _, number = spec.device.partition(":")
    if kind == "auto":
        kind = next((kind for kind in AUTOMATIC if _works(kind)), "cpu")
    if kind == "mps":
        return 1
    if kind not in NVIDIA:
        return None
    return 1 if number else max(1, gpus())


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
    options.log_severity_level = _FATAL  # errors say what goes wrong
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    chain = [(provider, settings)] + ([(CPU, {})] if provider != CPU else [])
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=chain)
    except MemoryError:
        raise
    except Exception as error:
        if parts := missing_parts(path):
            raise ModelError(
                f"Model {name} keeps its weights in {', '.join(parts[:3])}, which "
                f"{'is' if len(parts) == 1 else 'are'} not in {path.parent}; copy that as well."
            ) from error
        if strange := _of_tensorrt(path):
            raise ModelError(
                f"Model {name} was exported for TensorRT, which alone has its operator {strange}. "
                "Export it again for ONNX Runtime, without suppression or with that of ONNX "
                "(NonMaxSuppression)."
            ) from error
        words = " ".join(str(error).split())[:300]
        raise ModelError(
            f"Model {name}: onnxruntime {onnxruntime.__version__} cannot open {path}: {words}; "
            "check that it is a whole ONNX file, and that onnxruntime is not older than it."
        ) from error
    if provider not in session.get_providers():
        raise ModelError(
            f"Model {name}: onnxruntime did not start {provider} and would run on "
            f"{session.get_providers()[0]} instead; check the driver, or pass device='cpu'."
        )
    return session


def bound_device(session: Any) -> tuple[str, int] | None:
    """Return the GPU, as ``("cuda", 0)``, whose memory a session is handed its inputs in.

    None where it takes them from the processor's memory.
    """
    name = session.get_providers()[0]
    if name not in (PROVIDERS["cuda"], PROVIDERS["tensorrt"]):
        return None
    return "cuda", int(session.get_provider_options()[name].get("device_id", 0))


def run_on(session: Any, feeds: dict[str, Any], device: tuple[str, int] | None) -> list[Any]:
    """Return all outputs of a session, in their order.

    On a GPU inputs and outputs are bound to its memory (`IOBinding`): onnxruntime would otherwise
    copy each where a node needs it, and each output as the graph comes to it.
    """
    if device is None:
        outputs: list[Any] = session.run(None, feeds)
        return outputs
    values = library().OrtValue
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, values.ortvalue_from_numpy(array, *device))
    for output in session.get_outputs():
        binding.bind_output(output.name, *device)
    session.run_with_iobinding(binding)
    copied: list[Any] = binding.copy_outputs_to_cpu()
    return copied


def _of_tensorrt(path: Path) -> str:
    """Return the first operator of a file that only TensorRT has; nothing where there is none."""
    return next((node.operator for node in nodes_of(path) if "TRT" in node.operator), "")


@lru_cache
def _works(kind: str) -> bool:
    """Return True if a provider can be used, by opening a model of one node with it."""
    onnxruntime = library()
    name = PROVIDERS[kind]
    if name not in onnxruntime.get_available_providers():
        return False
    if kind == "cpu":
        return True
    if kind in NVIDIA:
        if not gpus():
            return False
        with suppress(Exception):  # older ones cannot, and find CUDA's libraries by themselves
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(_IDENTITY, options, providers=[name, CPU])
    except Exception:  # noqa: BLE001 - whatever the reason, it does not work
        return False
    return name in session.get_providers()


def _present() -> list[str]:
    return [name for kind, name in PROVIDERS.items() if _works(kind)]
