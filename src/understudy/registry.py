"""Names to implementations, imported only when asked for."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from understudy.errors import ConfigError, unknown


class Registry:
    """Lazy mapping from a public name to `"module:attribute"`.

    Args:
        kind: What the names are, for messages ("teacher").
        entries: name -> "package.module:attribute".
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def add(self, name: str, target: str) -> None:
        """Registers `target` ("module:attribute") as `name`; a taken name raises ConfigError."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} '{name}' is already {self._entries[name]}")
        self._entries[name] = target

    def get(self, name: str) -> Callable[..., Any]:
        """The object behind `name`; an unknown name raises ConfigError naming the nearest."""
        if name not in self._entries:
            raise ConfigError(unknown(self.kind, name, self._entries))
        module, _, attribute = self._entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
