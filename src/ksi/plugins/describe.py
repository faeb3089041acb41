"""Descriptions of every event in the formats that tools read, from the registry as it is now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ksi.codegen.described import page_of
from ksi.codegen.descriptions import Descriptions
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin
from ksi.kernel.registry import EventRegistry
from ksi.transport.http.problems import status_of

# The parts of documents go through as they were written, fields in the order of their declarations.
Object = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
Array = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "array"})]


class OpenApi(msgspec.Struct, frozen=True):
    """A document of OpenAPI 3.1; ``info`` has the ``x-ksi-hash`` of all that is described."""

    openapi: str
    info: Object
    servers: Array
    security: Array
    tags: Array
    paths: Object
    components: Object


class AsyncApi(msgspec.Struct, frozen=True, rename={"content_type": "defaultContentType"}):
    """A document of AsyncAPI 3.0; ``info`` has the ``x-ksi-hash`` of all that is described."""

    asyncapi: str
    info: Object
    content_type: str
    servers: Object
    channels: Object
    operations: Object
    components: Object


class Registry(msgspec.Struct, frozen=True):
    """Events as ``system:describe`` has them, a page of them; ``next`` goes into ``after``, where more follow.

    Equal hashes: all the events are the same, to the last word.
    """

    ksi: str
    hash: str
    events: Array
    next: str | UnsetType = UNSET


class Describe(AsyncPlugin):
    """OpenAPI, AsyncAPI, TypeScript and Python, and what they are all made of."""

    name = "describe"
    provides = (Descriptions,)

    async def initialize(self) -> None:
        self._descriptions = Descriptions(self.host.services.get(EventRegistry), status_of)

    def services(self) -> Mapping[type, Any]:
        return {Descriptions: self._descriptions}

    @query("describe:openapi", blocking=True, examples=[{}])
    def openapi(self) -> OpenApi:
        """Describe the events as OpenAPI 3.1: what HTTP takes and answers."""
        return msgspec.json.decode(self._descriptions.get("openapi"), type=OpenApi)

    @query("describe:asyncapi", blocking=True, examples=[{}])
    def asyncapi(self) -> AsyncApi:
        """Describe the events as AsyncAPI 3.0: frames of the WebSocket, and server-sent events."""
        return msgspec.json.decode(self._descriptions.get("asyncapi"), type=AsyncApi)

    @query("describe:typescript", blocking=True, examples=[{}])
    def typescript(self) -> str:
        """Describe the events as a module of TypeScript's types."""
        return self._descriptions.get("typescript")

    @query("describe:python", blocking=True, examples=[{}])
    def python(self) -> str:
        """Describe the events as a typed Python module."""
        return self._descriptions.get("python")

    @query("describe:registry", blocking=True, examples=[{}])
    def registry(self, after: Annotated[str | None, Meta(description="next of the page before")] = None) -> Registry:
        """Describe the events so that all the other descriptions can be made of it, and compared with later ones."""
        catalogue = self._descriptions.catalogue()
        page, following = page_of(catalogue.described, after)
        return Registry(catalogue.ksi, catalogue.hash, msgspec.Raw(msgspec.json.encode(page)), following)
