"""``tilevision.toml``: what a folder's commands have in common, so that nobody types it twice."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

__all__ = ["FILE", "configure", "named_model"]

FILE = "tilevision.toml"
VARIABLE = "TILEVISION_CONFIG"
_MODELS = "tilevision.models"
_COMMON = ("checkpoint", "workers")


def configure(ctx: click.Context, commands: Mapping[str, click.Command]) -> None:
    """Read the file of the current folder, or the one that ``TILEVISION_CONFIG`` names.

    Its values stand for options that are not given; variables and options replace them.

    Raises
    ------
    click.UsageError
        If it cannot be read, or has a name that is no option.
    """
    path = Path(os.environ.get(VARIABLE) or FILE).expanduser()
    if VARIABLE not in os.environ and not path.is_file():
        return
    try:
        with path.open("rb") as stream:
            told = tomllib.load(stream)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise click.UsageError(f"{path} is not TOML: {error}.") from error
    ctx.meta[_MODELS] = _models(path, told.pop("models", {}))
    common = {name: told.pop(name) for name in _COMMON if name in told}
    for name, table in told.items():
        if name not in commands or not isinstance(table, dict):
            raise click.UsageError(
                f"{path} has {name}; it may have {', '.join(_COMMON)}, [models.NAME] and a table "
                f"for each command: {', '.join(f'[{command}]' for command in commands)}."
            )
    ctx.default_map = {
        name: _values(path, command, common, told.get(name, {}))
        for name, command in commands.items()
    }


def named_model(name: str | None, parameters: Mapping[str, Any]) -> Any:
    """Return the model that the file calls `name`; None if it has none, or was not read.

    `parameters` replace what the file says.
    """
    ctx = click.get_current_context(silent=True)
    found = None if ctx is None else ctx.meta.get(_MODELS, {}).get(name)
    if found is None:
        return None
    from tilevision.catalogue import model

    given = {**found, **parameters}
    return model(given.pop("use"), **given)


def _models(path: Path, told: Any) -> dict[str, dict[str, Any]]:
    for name, table in told.items() if isinstance(told, dict) else [("", told)]:
        if not isinstance(table, dict) or not isinstance(table.get("use"), str):
            raise click.UsageError(
                f'{path} has models.{name} without use; write [models.NAME] and use = "openai:…".'
            )
    return dict(told)


def _values(
    path: Path, command: click.Command, common: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of a command's options by the name of their parameter."""
    options = {
        option.removeprefix("--"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    }
    values = {}
    for name, value in {**{n: v for n, v in common.items() if n in options}, **own}.items():
        if name not in options:
            raise click.UsageError(
                f"{path} has {name} in [{command.name}], and `tilevision {command.name}` has no "
                f"--{name}."
            )
        parameter = options[name]
        several = parameter.multiple and isinstance(value, list)
        values[str(parameter.name)] = value if several else _text(parameter, value)
    return values


def _text(parameter: click.Option, value: Any) -> Any:
    """Return what the shell would have said: ``overlap = 0.2`` is the text 0.2."""
    if parameter.multiple:
        return [str(value)]
    return str(value) if parameter.type is click.STRING else value
