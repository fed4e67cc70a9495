"""Options of what a config names: of a method, a loss, a partitioner, a model, a probe.

Each set of options is a table of its own in the config, for example ``[method-options]``. The code
that reads a table declares its options, either as a class derived from `Options` or as the keyword
parameters of a function. Any other key is refused. All tables are checked here, in one style.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

import pydantic
from pydantic import ConfigDict, Field

from fedloge.errors import ConfigError, unknown_name

Table = dict[str, Any]
"""Kebab-case keys to scalars, lists of them, or further tables."""

NotNegative = Annotated[float, Field(ge=0)]
NotNegativeWhole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


# Strict: without it `true` would pass for 1 and "3" for 3.
STRICT_AND_FROZEN = ConfigDict(
    frozen=True,
    strict=True,
    extra="forbid",
    allow_inf_nan=False,
    populate_by_name=True,
    alias_generator=lambda name: name.replace("_", "-"),
)


class Options(pydantic.BaseModel):
    """Base of a set of options: frozen, typed, with defaults; its keys are kebab-case in a config."""

    model_config = STRICT_AND_FROZEN

    @classmethod
    def names(cls) -> list[str]:
        """The options there are, kebab-case."""
        return [str(field.alias) for field in cls.model_fields.values()]


O = TypeVar("O", bound=Options)  # noqa: E741


def checked_options(cls: type[O], given: Mapping[str, Any], where: str) -> O:
    """The options of a table, checked.

    Parameters
    ----------
    cls : declares the options there are.
    given : kebab-case keys and their values.
    where : what they belong to, for the message: ``method-options of 'fedprox'``.

    Raises
    ------
    ConfigError
        A key is unknown or missing, or a value has the wrong type or is out of range. One line
        says what was expected and what came.
    """
    for key in given:
        if not cls.names():
            raise ConfigError(f"{where}: there are no options, got {key!r}; leave it out")
        if key not in cls.names():
            raise ConfigError(f"{where}: {unknown_name('option', key, cls.names())}")
    try:
        return cls.model_validate(dict(given))
    except pydantic.ValidationError as exc:
        raise ConfigError(f"{where}: {first_problem(exc)}") from None


def first_problem(exc: pydantic.ValidationError) -> str:
    """The first thing pydantic refuses, in one line: the key, what is wrong, and what came."""
    error = exc.errors()[0]
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{key} is missing; give it a value"
    return f"{key}: {message[0].lower()}{message[1:]}, got {error['input']!r}"


def keyword_options(
    function: Callable[..., Any], *, positional: bool = False, without: tuple[str, ...] = ()
) -> type[Options]:
    """The options that a function or a class takes: its keyword-only parameters.

    The type of an option is its annotation's, else its default's. Without either it takes anything.

    Parameters
    ----------
    positional : whether parameters that may also be given by position are options, as in a
        constructor.
    without : names of parameters that are not options.
    """
    kinds: set[Any] = {inspect.Parameter.KEYWORD_ONLY}
    if positional:
        kinds.add(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    hints = _hints(function)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in kinds or name in without:
            continue
        default = parameter.default
        missing = default is inspect.Parameter.empty
        kind = hints.get(name, Any if missing or default is None else type(default))
        fields[name] = (kind, ... if missing else default)
    return pydantic.create_model("KeywordOptions", __base__=Options, **fields)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(
            function.__init__ if inspect.isclass(function) else function, include_extras=True
        )
    except Exception:
        # A plug-in's annotation names what does not exist: then types come from the defaults.
        return {}
