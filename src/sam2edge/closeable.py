"""The base of what is closed at the end of a with block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

Self = TypeVar("Self", bound="Closeable")


class Closeable(ABC):
    """A context manager that closes itself at the end, after an error too."""

    @abstractmethod
    def close(self) -> None:
        """Free all resources; may be called again."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
