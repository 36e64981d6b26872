"""What the service itself checks before it does anything: sizes, patterns and words of every member, in AWS's own sentences.

The limits are those of the service description inside botocore, which botocore itself does not check; so this is another
source than our own table (providers/aws/limits.py), and the two are held against each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from cloudtune.standins.aws.answers import AwsError


@cache
def service_model(service: str) -> Any:
    """botocore's description of a service."""
    import botocore.session

    return botocore.session.get_session().get_service_model(service)


def require_valid(service: str, operation: str, body: Mapping[str, Any]) -> None:
    """Raises AwsError ValidationException that names every broken limit, as the service would."""
    shape = service_model(service).operation_model(operation).input_shape
    found = list(_check(shape, body, "")) if shape is not None else []
    if found:
        count = f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected"
        raise AwsError("ValidationException", f"{count}: {'; '.join(found)}")


def operations(service: str) -> frozenset[str]:
    """Every operation that the service has."""
    return frozenset(service_model(service).operation_names)


def _check(shape: Any, value: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure":
        for name in shape.required_members:
            if name not in value:
                yield _sentence("null", _join(path, name), "Member must not be null")
        for name, inner in value.items():
            if name in shape.members:
                yield from _check(shape.members[name], inner, _join(path, name))
        return
    faults = list(_faults(shape, value))
    if faults:
        yield _sentence(value, path, faults[0])
    if shape.type_name == "list":
        for index, item in enumerate(value):
            yield from _check(shape.member, item, f"{path}.{index + 1}.member")
    elif shape.type_name == "map":
        yield from _map(shape, value, path)


def _map(shape: Any, value: Mapping[str, Any], path: str) -> Iterator[str]:
    for kind, inner, values in (("keys", shape.key, value.keys()), ("values", shape.value, value.values())):
        broken = {fault for one in values for fault in _faults(inner, one)}
        if broken:
            yield _sentence(value, path, f"Map {kind} must satisfy constraint: [{', '.join(_all_of(inner))}]")


def _faults(shape: Any, value: Any) -> Iterator[str]:
    limits = shape.metadata
    least, most = limits.get("min"), limits.get("max")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if least is not None and value < least:
            yield f"Member must have value greater than or equal to {least}"
        if most is not None and value > most:
            yield f"Member must have value less than or equal to {most}"
    elif isinstance(value, (str, list, dict)):
        if least is not None and len(value) < least:
            yield f"Member must have length greater than or equal to {least}"
        if most is not None and len(value) > most:
            yield f"Member must have length less than or equal to {most}"
    if isinstance(value, str):
        yield from _text_faults(shape, limits, value)


def _text_faults(shape: Any, limits: Mapping[str, Any], value: str) -> Iterator[str]:
    pattern = limits.get("pattern")
    too_long = limits.get("max") is not None and len(value) > limits["max"]  # some of these patterns are slow on such a text
    if pattern and not too_long and not re.fullmatch(_python(pattern), value):
        yield f"Member must satisfy regular expression pattern: {pattern}"
    words = getattr(shape, "enum", None)
    if words and value not in words:
        yield f"Member must satisfy enum value set: [{', '.join(words)}]"


def _all_of(shape: Any) -> Iterator[str]:
    """Every constraint of a map's keys or values: the service lists them all, broken or not."""
    limits = shape.metadata
    if limits.get("max") is not None:
        yield f"Member must have length less than or equal to {limits['max']}"
    if limits.get("min") is not None:
        yield f"Member must have length greater than or equal to {limits['min']}"
    if limits.get("pattern"):
        yield f"Member must satisfy regular expression pattern: {limits['pattern']}"


@cache
def _python(pattern: str) -> str:
    """Java's classes of letters, numbers and spaces in Python's words."""
    return pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", r"\w").replace(r"\p{Z}", r"\s")


def _join(path: str, name: str) -> str:
    plain = name[0].lower() + name[1:]
    return f"{path}.{plain}" if path else plain


def _sentence(value: Any, path: str, fault: str) -> str:
    shown = "null" if value == "null" else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {fault}"
