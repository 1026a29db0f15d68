"""Names to implementations, imported only when asked for."""

import importlib
from collections.abc import Callable, Collection, Mapping
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


def on_first_use(module: str, names: Collection[str]) -> Callable[[str], Any]:
    """A package's `__getattr__` that has `names` from `module`, imported when one is asked for."""

    def get(name: str) -> Any:
        if name not in names:
            package = module.rpartition(".")[0]
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module), name)

    return get
