"""Settings: text read as a typed value, and plain values checked against a type."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin


def assignment(setting: str) -> tuple[str, str]:
    """Key and text of ``key=value``."""
    key, separator, value = setting.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"a setting is written key=value, got {setting!r}")
    return key.strip(), value.strip()


def assignments(settings: Sequence[str]) -> dict[str, str]:
    """Text by key; of a key that comes again the last one holds: commands are made by adding to others."""
    return dict(map(assignment, settings))


def read(key: str, text: str, hint: Any) -> Any:
    """The text as the first of the hint's types that can read it; none is None where the hint has it."""
    choices = _choices(hint)
    if type(None) in choices and text.lower() == "none":
        return None
    for choice in choices:
        value = _as(text, choice)
        if value is not None:
            return value
    raise ValueError(f"{key} must be {described(hint)}, got {text!r}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _as(text: str, choice: Any) -> Any:
    """The text read as one type; None where it cannot be."""
    try:
        if choice is bool:
            return {"true": True, "false": False}.get(text.lower())
        if choice is int or choice is float:
            return choice(text)
        if get_origin(choice) is tuple:
            return tuple(get_args(choice)[0](part) for part in text.strip("()[]").split(","))
        if get_origin(choice) is Literal:
            return text if text in get_args(choice) else None
        return text if choice is str else None
    except ValueError:
        return None


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of one of the hint's types."""

    def one(choice: Any) -> bool:
        if get_origin(choice) is Literal:
            return value in get_args(choice)
        if get_origin(choice) is tuple:
            return isinstance(value, tuple) and all(
                fits(part, get_args(choice)[0]) for part in value
            )
        if choice is bool:
            return isinstance(value, bool)
        if choice is float:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        return isinstance(value, choice) and not isinstance(value, bool)

    return any(one(choice) for choice in _choices(hint))


def described(hint: Any) -> str:
    """The hint in words."""

    def one(choice: Any) -> str:
        if get_origin(choice) is Literal:
            return "one of " + ", ".join(get_args(choice))
        if get_origin(choice) is tuple:
            numbers = "whole numbers" if get_args(choice)[0] is int else "numbers"
            return f"{numbers} separated by commas"
        return {
            int: "a whole number",
            float: "a number",
            str: "a text",
            bool: "true or false",
            type(None): "none",
        }[choice]

    return " or ".join(map(one, _choices(hint)))
