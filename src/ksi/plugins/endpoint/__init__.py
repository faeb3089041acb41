"""KSI as a provider: its models and agents in the words of OpenAI's and Anthropic's protocols."""

from ksi.plugins.endpoint.plugin import Endpoint

__all__ = ["Endpoint"]
