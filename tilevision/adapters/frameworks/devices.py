"""PyTorch on a worker: the library, the device, and one processor for each worker."""

from __future__ import annotations

import importlib
from typing import Any

from tilevision.adapters import ADAPTERS
from tilevision.adapters.gpuclaims import claimed_gpu
from tilevision.errors import ModelError
from tilevision.modelspec import ModelSpec

__all__ = ["fed", "library", "placed", "processes", "runtime", "torch_device"]


def library(name: str) -> Any:
    """Return a library, as ``"torch"``.

    Raises
    ------
    ModelError
        If it is not installed, or does not work.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = str(error.name or name).partition(".")[0]
        raise ModelError(f"This model needs {missing}: {_remedy(missing, name)}.") from error
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{name} is installed and does not work ({words}); its parts may not fit each other: "
            f"{_remedy(name, name)} in a fresh environment."
        ) from error


def _remedy(missing: str, wanted: str) -> str:
    """Return the command that installs a missing package, or else what needs it."""
    known = {one.library: one.remedy for one in ADAPTERS}
    return known.get(missing) or known.get(wanted) or known["torch"]


def torch_device(device: str) -> str:
    """Return the PyTorch device for ``device=``: ``"cpu"``, ``"cuda:0"`` or ``"mps"``.

    Without a number, processes on one machine share its GPUs out.

    Raises
    ------
    ModelError
        If it is unknown to PyTorch, or is not here.
    """
    torch = library("torch")
    kind, _, number = device.partition(":")
    here = _present(torch)
    if kind == "auto":
        kind = here[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ModelError(
            f"Device {device!r} is not known to PyTorch models; give 'auto', 'cpu', 'cuda:0' or "
            "'mps'."
        )
    if kind not in here:
        raise ModelError(
            f"Device {device!r} was asked for, but torch {torch.__version__} sees none here; "
            f"there is {', '.join(here)}. Install a build of torch with it, or leave device out."
        )
    if kind != "cuda":
        return kind
    count = torch.cuda.device_count()
    index = int(number) if number else claimed_gpu(count)
    if index >= count:
        raise ModelError(
            f"Device {device!r} was asked for, but this machine shows {count} GPU"
            f"{'s' if count != 1 else ''}, numbered from 0; check CUDA_VISIBLE_DEVICES."
        )
    return f"cuda:{index}"


def runtime(spec: ModelSpec) -> str:
    """Return what this process would run the model on, as "torch 2.8.0, cuda:0".

    Raises
    ------
    ModelError
        If a library or the device asked for is not here.
    """
    device = torch_device(spec.device)
    half = ", half precision" if _in_half(spec, device) else ""
    return f"torch {library('torch').__version__}, {device}{half}"


def placed(network: Any, spec: ModelSpec, device: str) -> Any:
    """Return a network on its device, ready to be asked, in half precision where that is declared.

    Raises
    ------
    ModelError
        If half precision is declared, and the device is the processor.
    """
    network = network.to(device).eval()
    if not _in_half(spec, device):
        return network
    network = network.half()
    if device.startswith("cuda"):  # so convolutions in half precision need no turning over
        network = network.to(memory_format=library("torch").channels_last)
    return network


def fed(values: Any, spec: ModelSpec, device: str) -> Any:
    """Return a tensor on the network's device, in the precision that it computes in."""
    values = values.to(device)
    return values.half() if spec.params.get("half") and values.is_floating_point() else values


def _in_half(spec: ModelSpec, device: str) -> bool:
    half = bool(spec.params.get("half"))
    if half and device == "cpu":
        raise ModelError(
            f"Model {spec.name} is declared with half=True, which is for GPUs, and it would run on "
            "the processor here; leave half out."
        )
    return half


def processes(spec: ModelSpec) -> int | None:
    """Return how many processes of this machine should hold the model: one for each GPU.

    None on processors: as many as there are.
    """
    torch = library("torch")
    kind, _, number = spec.device.partition(":")
    kind = _present(torch)[0] if kind == "auto" else kind
    if kind == "cuda":
        return 1 if number else max(1, torch.cuda.device_count())
    return 1 if kind == "mps" else None


def _present(torch: Any) -> list[str]:
    """Return the kinds of device that are here, the fastest first."""
    mps = getattr(torch.backends, "mps", None)
    kinds = ["cuda"] if torch.cuda.is_available() else []
    return [*kinds, *(["mps"] if mps is not None and mps.is_available() else []), "cpu"]
