"""Descriptions of every event in the formats that tools read, from the registry as it is now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ksi.codegen.descriptions import Description, Descriptions
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.registry import EventRegistry
from ksi.transport.http.problems import status_of


class Describe(AsyncPlugin):
    """OpenAPI, AsyncAPI, TypeScript and Python, and what they are all made of."""

    name = "describe"
    provides = (Descriptions,)

    async def initialize(self) -> None:
        self._descriptions = Descriptions(self.host.services.get(EventRegistry), status_of)

    def services(self) -> Mapping[type, Any]:
        return {Descriptions: self._descriptions}

    @query("describe:openapi", inline=True, examples=[{}])
    def openapi(self) -> Description:
        """Describe the events as OpenAPI 3.1: what HTTP takes and answers."""
        return self._descriptions.get("openapi")

    @query("describe:asyncapi", inline=True, examples=[{}])
    def asyncapi(self) -> Description:
        """Describe the events as AsyncAPI 3.0: frames of the WebSocket, and server-sent events."""
        return self._descriptions.get("asyncapi")

    @query("describe:typescript", inline=True, examples=[{}])
    def typescript(self) -> Description:
        """Describe the events as types of TypeScript."""
        return self._descriptions.get("typescript")

    @query("describe:python", inline=True, examples=[{}])
    def python(self) -> Description:
        """Describe the events as a typed Python module."""
        return self._descriptions.get("python")

    @query("describe:registry", inline=True, examples=[{}])
    def registry(self) -> Description:
        """Describe the events so that all the other descriptions can be made of it, and compared with later ones."""
        return self._descriptions.get("registry")
