"""The dependency graph of plugins: who starts first, who follows whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ksi.core.errors import DependencyCycleError


def start_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Names in an order in which each comes after those it needs; otherwise as given. Stop in the reverse.

    Raises:
        DependencyCycleError: They need each other in a circle; it names the circle.
    """
    order: list[str] = []
    done: set[str] = set()
    for name in needs:
        _visit(name, needs, order, done, [])
    return order


def dependents(name: str, needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Those who need ``name``, directly or through others, in start order."""
    affected = {name}
    order = start_order(needs)
    for other in order:
        if affected & set(needs[other]):
            affected.add(other)
    return [other for other in order if other in affected and other != name]


def _visit(name: str, needs: Mapping[str, Sequence[str]], order: list[str], done: set[str], path: list[str]) -> None:
    if name in path:
        raise DependencyCycleError([*path[path.index(name) :], name])
    if name in done or name not in needs:
        return
    for needed in needs[name]:
        _visit(needed, needs, order, done, [*path, name])
    done.add(name)
    order.append(name)
