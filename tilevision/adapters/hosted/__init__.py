"""Vision models behind any OpenAI-compatible endpoint: tiles, scenes, moderation.

One name, ``"openai"``, for OpenAI itself, for vLLM, Ollama, LM Studio, llama.cpp, and for the
gateways of other providers. It needs the `openai` package: ``pip install 'tilevision[vlm]'``.

Quick start
-----------
OpenAI, with the key in the environment variable ``OPENAI_API_KEY``::

    ships = tv.model(
        "openai",
        model="gpt-4.1-mini",
        prompt="Find every ship, moored ones too.",
        labels=["ship"],
        price={"input": 0.40, "output": 1.60},      # per million tokens
    )
    tv.analyze("harbour.tif", ships, grid=768, quota=tv.Quota(concurrency=50))

vLLM, ``vllm serve Qwen/Qwen2.5-VL-7B-Instruct``, on another machine::

    tv.model("openai", model="Qwen/Qwen2.5-VL-7B-Instruct", base_url="http://gpu1:8000/v1",
             prompt="Find every solar panel.", labels=["solar panel"])

Ollama, ``ollama pull qwen2.5vl:7b``, on this one::

    tv.model("openai", model="qwen2.5vl:7b", base_url="http://localhost:11434/v1",
             api_key_env=None, prompt="Find every person.", labels=["person"], timeout=600)

The other stages, with ``"openai:MODEL"`` as a short form that also the command line takes::

    tv.analyze("harbour.tif", ships, moderation="openai:omni-moderation-latest",
               synthesis="openai:gpt-4.1")
    tv.model("openai", model="gpt-4.1", prompt="Write two sentences for a harbour master.")

The stages
----------
*Tiles* are sent one to a request, as JPEG, and answered by a JSON schema. *Synthesis* gets the
result's digest (counts, densities, strongest detections, what failed) and a thumbnail.
*Moderation* gets the thumbnail: a model with "moderation" in its name is asked at
``/moderations``, and serves no other stage; any other is asked in a chat, with `prompt` as the
policy. Each stage takes a `tv.model` of its own, since the prompts differ.

Parameters
----------
model : str
    As the server calls it.
base_url : str
    Where the server is, mostly ending in ``/v1``. Default: the environment variable
    ``OPENAI_BASE_URL`` of the process that declares the model, else OpenAI.
api_key_env : str or None
    Name of the environment variable with the API key *where the workers run*; a local cluster
    takes over this process's environment. Default ``"OPENAI_API_KEY"``, whatever `base_url`
    is: give another name, or None for no key, where OpenAI's is none of the server's business.
    The key itself is never a parameter, so it is in no file, event, error or pickle.
prompt : str
    What to find (tiles), what to write (synthesis), what to refuse (moderation).
labels : list of str
    The classes. Without, the model names things as it likes.
box_format : str
    How the model writes boxes. Default: what its family was trained to write, as its name tells,
    else ``"0-1000"``. See below.
fields : list of str
    What is asked for beside label and box: ``"score"`` (the model's own word for how sure it is:
    no probability; without it scores are NaN) and ``"text"`` (what is written there).
max_side, quality, detail
    Longest side of the picture as sent (1024), its JPEG quality (90), and ``"low"``, ``"high"``
    or ``"auto"`` where the server knows that. The default grid is one of `max_side` tiles.
temperature : float or None
    0 by default; None leaves it to the server, as some reasoning models demand.
max_tokens : int or None
    Of an answer (4096); None sends no limit. A crowded tile needs about 30 a detection.
response_format : str
    ``"json_schema"``; for servers that know no schemas ``"json_object"`` or ``"text"``.
    A server that refuses this field, `temperature` or the name of the limit is asked again in the
    next spelling, once; what it takes is remembered.
reasks : int
    How often an answer that cannot be read is asked for again (2), with the reason why; at once,
    so beside a quota per minute.
timeout : float
    Seconds until an answer must be complete (120), whatever arrives meanwhile. A run's own
    `timeout`, where that is shorter, takes its place.
categories : list of str
    Moderation categories that block; default all that the service flags.
extra : dict
    Further fields of the request's body, as ``{"reasoning_effort": "low"}``.
backend : str
    What stands behind the address, in your words: see "What is remembered".
price, input_size, max_detections, nms, …
    As for every model (`tilevision.model`).

Boxes
-----
A unit and, where it is not ``xyxy``, an order: ``"pixels"`` (of the picture as sent), ``"0-1"``,
``"0-100"``, ``"0-1000"``; ``xyxy`` and ``yxyx`` corners, ``cxcywh`` centre and size, ``xywh``
corner and size. Families: ``"gemini"`` is ``"0-1000 yxyx"``; ``"qwen2.5-vl"`` is ``"pixels"``, on
sides that are multiples of 28, which pictures are therefore given; ``"qwen3-vl"``,
``"qwen2-vl"``, ``"internvl"`` and ``"glm-4v"`` are ``"0-1000"``; ``"moondream"`` is ``"0-1"``.

Boxes that reach outside the tile are clipped and counted in the tile's note. Many of them are a
sign of a wrong `box_format`.

What goes wrong
---------------
429 slows the whole run down and waits as long as ``Retry-After`` says, by the server's own
clock; 408, 409, 5xx, timeouts and lost connections are tried again (`tv.Retry`); 400, 401, 403 and
404 fail at once with one line, as do answers that are cut off, filtered or refused. An error that
comes with status 200 is what its code says. Of several answers in one reply the last counts, and
what a model thinks aloud never does. How many requests are under way is the
run's ``quota=tv.Quota(concurrency=…, per_minute=…)``, 32 without one; one worker holds hundreds.

What is remembered
------------------
A tile is asked about again when anything that its answer depends on has changed: model, prompt,
labels, box format, picture size and quality, temperature, and the address, since another server
may serve something else under the same name. Where the same weights move between addresses (a
node of a cluster, a tunnel), say what they are: ``backend="qwen2.5-vl-7b-awq"`` takes the
address's place. Timeout, key and `reasks` change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tilevision.adapters.hosted.endpoint import check_library
from tilevision.adapters.hosted.parameters import Parameters, settle
from tilevision.adapters.hosted.vision import HostedVision
from tilevision.errors import ModelError
from tilevision.modelspec import ModelSpec
from tilevision.modelspec.spec import DECLARABLE

__all__ = ["HostedVision", "Parameters", "declare", "load", "runtime"]

NAME = "openai"


def declare(variant: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any], str]:
    """Return name, declarations with parameters, and identity of what a caller asks for.

    Raises
    ------
    ModelError
        If something is unknown, missing, makes no sense, or is a secret.
    """
    declared = {key: value for key, value in given.items() if key in DECLARABLE}
    parameters = settle(variant, {key: given[key] for key in given.keys() - declared.keys()})
    if declared.get("batch_size", 1) != 1:
        raise ModelError(
            "openai: one request has one tile; for more at once give quota=tv.Quota(concurrency=…)."
        )
    stages = ("moderation",) if parameters.moderates else ("tile", "synthesis", "moderation")
    own = {
        "stages": stages,
        "input_size": parameters.max_side,
        **declared,
        "hosted": True,
        **asdict(parameters),
    }
    return f"{NAME}:{parameters.model}", own, parameters.identity


def load(spec: ModelSpec) -> HostedVision:
    """Make the model; it connects at its first request.

    Raises
    ------
    ModelError
        If the client library is not installed.
    """
    check_library()
    return HostedVision(Parameters(**spec.params))


def runtime(spec: ModelSpec) -> str:
    """Return the host that is asked."""
    check_library()
    return Parameters(**spec.params).host
