"""Services: what plugins and the daemon give each other, by interface."""

from __future__ import annotations

from typing import Any, TypeVar

from ksi.core.errors import DeclarationError, MissingServiceError
from ksi.kernel.interfaces import is_protocol, members, misfits

T = TypeVar("T")


class ServiceRegistry:
    """Implementations by interface. An interface is a class or a Protocol of the ground, or of an installed package.

    ``services.get(Interface)`` is typed: for an abstract Protocol mypy needs ``disable_error_code = type-abstract``.
    """

    def __init__(self) -> None:
        self._services: dict[type, tuple[Any, str]] = {}

    def register(self, interface: type[T], implementation: T, *, owner: str = "daemon") -> None:
        """Provide ``implementation``; the same owner may replace its own.

        Raises:
            DeclarationError: Another owner provides it already, or a member of the interface is missing, or can not be
                called as the interface says.
        """
        held = self._services.get(interface)
        if held is not None and held[1] != owner:
            raise DeclarationError(f"service {interface.__name__} of {owner!r} is provided by {held[1]!r} already")
        what = f"service {interface.__name__} of {owner!r}"
        if missing := _missing(interface, implementation):
            raise DeclarationError(f"{what} lacks {', '.join(missing)}: {type(implementation).__name__}")
        if wrong := misfits(interface, implementation):
            raise DeclarationError(f"{what} does not fit: {'; '.join(wrong)}", where=type(implementation).__qualname__)
        self._services[interface] = (implementation, owner)

    def get(self, interface: type[T]) -> T:
        """The implementation. Raises MissingServiceError where nobody provides it."""
        held = self._services.get(interface)
        if held is None:
            raise MissingServiceError(interface.__name__)
        return held[0]  # type: ignore[no-any-return]  # register() saw that it fits

    def provider_of(self, interface: type) -> str | None:
        """The owner that provides it."""
        held = self._services.get(interface)
        return None if held is None else held[1]

    def withdraw(self, owner: str) -> None:
        """Take back everything that ``owner`` provides."""
        self._services = {interface: held for interface, held in self._services.items() if held[1] != owner}


def _missing(interface: type, implementation: Any) -> list[str]:
    if not is_protocol(interface) and isinstance(implementation, interface):
        return []
    return [name for name in members(interface) if not hasattr(implementation, name)]
