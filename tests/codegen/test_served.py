"""What HTTP answers is what the document says: each event, asked as its examples ask, and wrongly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest

from ksi.kernel.plugin import AsyncPlugin
from tests.codegen.painting import Painting
from tests.transport.http.site import PLUGINS, Site, serving

MORE = ("describe:Describe", "log:Log", "monitor:Monitor", "correlation:Correlation", "entity:Entity", "event:Event")
ENDLESS = {"event:subscribe", "probe:wait", "probe:held", "system:shutdown"}
"""What never answers, or never again."""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    plugins: tuple[type[AsyncPlugin] | str, ...] = (*PLUGINS, *(f"ksi.plugins.{name}" for name in MORE), Painting)
    async with serving(tmp_path, plugins=plugins) as started:
        yield started


def payloads(operation: Any) -> Iterator[Any]:
    """The examples of a request; nothing; a field that nobody knows."""
    content = operation["requestBody"]["content"]["application/json"]
    yield from (example["value"] for example in content.get("examples", {}).values())
    yield from ({}, {"no such field": 1})


def refuse_undeclared(answer: httpx.Response, operation: Any, document: Any) -> None:
    """Raises AssertionError or jsonschema.ValidationError where the document does not say that this may come."""
    assert str(answer.status_code) in operation["responses"], answer.text
    declared = operation["responses"][str(answer.status_code)]
    if "$ref" in declared:
        declared = document["components"]["responses"][declared["$ref"].rpartition("/")[2]]
    media = answer.headers["content-type"].partition(";")[0]
    content = declared["content"][media]
    value = answer.text if media.startswith("text/") else answer.json()
    jsonschema.Draft202012Validator({**content["schema"], "components": document["components"]}).validate(value)


async def test_every_event_answers_by_post_as_it_is_described(site: Site) -> None:
    async with site.client() as client:
        document = (await client.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            if not path.startswith("/v1/events/") or path.rpartition("/")[2] in ENDLESS:
                continue
            for payload in payloads(methods["post"]):
                refuse_undeclared(await client.post(path, json=payload), methods["post"], document)


async def test_every_query_answers_by_get_as_it_is_described(site: Site) -> None:
    async with site.client() as client:
        document = (await client.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            if "get" not in methods or not path.startswith("/v1/events/") or path.rpartition("/")[2] in ENDLESS:
                continue
            for payload in payloads(methods["post"]):
                fields = {
                    name: value if isinstance(value, str | list) else msgspec.json.encode(value).decode()
                    for name, value in payload.items()
                }
                refuse_undeclared(await client.get(path, params=fields), methods["get"], document)


async def test_a_stream_answers_with_lines_of_the_types_that_are_described(site: Site) -> None:
    async with site.client(headers={"accept": "application/x-ndjson"}) as client:
        document = (await client.get("/openapi.json")).json()
        answer = await client.post("/v1/stream/painting:watch", json={"painting": "x"})
    content = document["paths"]["/v1/stream/painting:watch"]["post"]["responses"]["200"]["content"]
    line = {**content[answer.headers["content-type"]]["schema"], "components": document["components"]}
    opening, chunk, end = map(msgspec.json.decode, answer.text.splitlines())
    for each in (opening, chunk, end):
        jsonschema.validate(each, line)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(chunk | {"data": end["data"]}, line)


async def test_the_other_paths_answer_as_they_are_described(site: Site) -> None:
    async with site.client() as client:
        document = (await client.get("/openapi.json")).json()
        paths = [path for path in document["paths"] if not path.startswith("/v1/")]
        assert {"/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json", "/types.ts"} == {*paths}
        for path in paths:
            operation = document["paths"][path]["get"]
            answer = await client.get(path)
            assert answer.status_code == 200
            refuse_undeclared(answer, operation, document)
