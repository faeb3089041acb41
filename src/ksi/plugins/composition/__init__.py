"""Compositions: agents and prompts described in YAML files, with ``extends``, ``mixins`` and variables."""

from ksi.plugins.composition.plugin import Composition

__all__ = ["Composition"]
