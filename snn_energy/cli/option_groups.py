"""Groups of options: a command has a frozen dataclass as one keyword parameter, typer sees the fields of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Annotated, get_args, get_origin, get_type_hints


class LeaveOut:
    """In ``Annotated[Group, LeaveOut("field")]``: options of a group that a command does not have."""

    def __init__(self, *names: str) -> None:
        self.names = names


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one parameter per field instead of each group; the command itself still receives the groups."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Callable[..., object], list[str]]] = {}
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        group, *annotations = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if isinstance(group, type) and is_dataclass(group):
            left_out = {
                name for annotation in annotations if isinstance(annotation, LeaveOut) for name in annotation.names
            }
            options = _options(group, left_out)
            groups[parameter.name] = group, [option.name for option in options]
            parameters += options
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))

    @wraps(command)
    def command_with_options(**values: object) -> None:
        group_values = {name: group(**{key: values.pop(key) for key in keys}) for name, (group, keys) in groups.items()}
        command(**values, **group_values)

    command_with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command_with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command_with_options


def _options(group: type, left_out: set[str]) -> list[inspect.Parameter]:
    """A keyword parameter per field. Raises TypeError for a name to leave out that is no field."""
    hints = get_type_hints(group, include_extras=True)
    unknown = left_out - hints.keys()
    if unknown:
        raise TypeError(f"{group.__name__} has no option {', '.join(sorted(unknown))} to leave out")
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in fields(group)
        if field.name not in left_out
    ]
