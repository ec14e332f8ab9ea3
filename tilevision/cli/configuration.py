"""``tilevision.toml``: what a folder's commands have in common, so that nobody types it twice."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tilevision import checks

__all__ = ["FILE", "configure", "named_model"]

FILE = "tilevision.toml"
VARIABLE = "TILEVISION_CONFIG"
_MODELS = "tilevision.models"
_COMMON = ("checkpoint", "workers")
_TAKES = {  # by the type's name: each flag has a type object of its own
    click.STRING.name: "a text",
    click.BOOL.name: "true or false",
    click.INT.name: "a whole number",
    click.FLOAT.name: "a number",
}


def configure(ctx: click.Context, commands: Mapping[str, click.Command]) -> None:
    """Read the file of the current folder, or the one that ``TILEVISION_CONFIG`` names.

    Its values stand for options that are not given; variables and options replace them.

    Raises
    ------
    click.UsageError
        If it cannot be read, has a name that is no option, or a value of another type.
    """
    named = os.environ.get(VARIABLE)
    path = checks.path(VARIABLE, named) if named else Path(FILE)
    if not named and not os.path.lexists(path):
        return
    if not named and path.exists() and not path.is_file():  # a pipe would be waited for
        raise click.UsageError(f"{path} is not a file. Rename it, or name another with {VARIABLE}.")
    told = _told(path)
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


def _told(path: Path) -> dict[str, Any]:
    """Return what a file says; one with a byte order mark, as Windows writes it, too."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is not TOML: {error}.") from error


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
        option = options[name]
        said = value if option.multiple and isinstance(value, list) else [value]
        if not all(_fits(option, one) for one in said):
            shown = f"{json.dumps(value, default=str, ensure_ascii=False):.80}"
            takes = "a text, or a list of texts" if option.multiple else _TAKES[option.type.name]
            raise click.UsageError(
                f"{path} has {name} = {shown}; `tilevision {command.name} --{name}` takes {takes}."
            )
        # What the shell would have said: ``overlap = 0.2`` is the text 0.2.
        words = [str(one) if option.type is click.STRING else one for one in said]
        values[str(option.name)] = words if option.multiple else words[0]
    return values


def _fits(option: click.Option, value: Any) -> bool:
    """Return True if the shell could have said `value`; a text is judged as the shell's."""
    if isinstance(value, str):
        return True
    kind = option.type.name
    if kind == click.BOOL.name or isinstance(value, bool):
        return kind == click.BOOL.name and isinstance(value, bool)
    return isinstance(value, int) or (isinstance(value, float) and kind != click.INT.name)
