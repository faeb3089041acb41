"""Completions: a model is asked, answers token by token, can be stopped, and goes on after a crash."""

from ksi.plugins.completion.plugin import Completion

__all__ = ["Completion"]
