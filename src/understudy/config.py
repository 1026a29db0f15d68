"""Settings: frozen dataclasses made from plain mappings, strict about keys and types.

Precedence, lowest first: dataclass default, recipe YAML, `--set a.b=c`, named option.
"""

import ast
import dataclasses
import hashlib
import inspect
import itertools
import json
import math
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from understudy.errors import ConfigError, unknown

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "settings") -> T:
    """Builds dataclass `cls` from a (nested) mapping.

    Args:
        cls: A dataclass; nested dataclasses, Literal, tuple, Optional and scalars are understood.
        mapping: Keys are field names. Missing ones take the field's default.
        where: What the mapping is, for messages ("recipe.yaml", "--set").

    Raises:
        ConfigError: An unknown key (the nearest is named), a missing one, or a wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise ConfigError(f"{where}: {unknown('key', str(key), fields)}")
    values = {key: _coerce(hints[key], value, f"{where}: {key}") for key, value in mapping.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    return cls(**values)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: wanted a mapping, found {value!r}")
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for option in (a for a in args if a is not type(None)):
            try:
                return _coerce(option, value, where)
            except ConfigError as error:
                errors.append(str(error))
        raise ConfigError(errors[0])
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}: {unknown('value', str(value), map(str, args))}")
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ConfigError(f"{where}: wanted a list, found {value!r}")
        return tuple(_coerce(args[0], item, where) for item in value)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: wanted a mapping, found {value!r}")
        of = args[1] if args else Any
        return {key: _coerce(of, item, f"{where}.{key}") for key, item in value.items()}
    if hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is int and type(value) is float and value.is_integer() and math.isfinite(value):
        return int(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    text = (
        f'; in quotes it is one: "{value}"' if hint is str and type(value) in (int, float) else ""
    )
    raise ConfigError(f"{where}: wanted {getattr(hint, '__name__', hint)}, found {value!r}{text}")


def documented(cls: type) -> dict[str, str]:
    """What is written below the fields of dataclass `cls`, and the values of a Literal; those of a
    nested dataclass as "field.inner"."""
    texts: dict[str, str] = {}
    for part in reversed(cls.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        for above, below in itertools.pairwise(getattr(tree, "body", ())):
            match above, below:
                case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    texts[name] = " ".join(text.split())
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            inner = documented(hint)  # type: ignore[arg-type]
            texts |= {f"{name}.{key}": text for key, text in inner.items()}
        elif get_origin(hint) is Literal:
            values = f"One of {', '.join(map(str, get_args(hint)))}."
            texts[name] = " ".join(filter(None, [texts.get(name), values]))
    return texts


def read_yaml(path: Path, wanted: str) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError, naming what was `wanted`, if it holds none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: wanted {wanted}, found {content!r}")
    return content


def assigned(texts: Iterable[str], form: str) -> dict[str, str]:
    """Names to what is assigned to them, of texts such as "mn04=mn04.pt"; ConfigError, saying that
    `form` is wanted, for any other."""
    result = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not (name and value):
            raise ConfigError(f"{form}, found '{text}'")
        result[name] = value
    return result


def overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Nested mapping from `a.b=c` assignments; values are read as YAML ("none" is None)."""
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"wanted KEY=VALUE, found '{text}'")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text}: the value is no YAML ({error})") from None
    return nested(values)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mapping from dotted keys: {"a.b": 1} to {"a": {"b": 1}}."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{key}={value}: '{parent}' is already set to a value")
        node[leaf] = value
    return result


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge; later layers win. Inputs are left alone."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = result.get(key)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def to_mapping(config: Any) -> Any:
    """Plain JSON-able mirror of a dataclass (Paths as strings, tuples as lists)."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_mapping(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_mapping(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_mapping(item) for item in config]
    return str(config) if isinstance(config, Path) else config


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`; NaN and infinities are refused."""
    text = json.dumps(to_mapping(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
