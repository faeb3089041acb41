"""Paths that plugins serve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from ksi.kernel.declare import event, query
from ksi.kernel.plugin import AsyncPlugin, Route
from tests.transport.http.site import PLUGINS, PRINCIPAL, Site, serving


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    who = scope["state"]["session"].principal if "session" in scope["state"] else "nobody"
    await PlainTextResponse(f"{Request(scope).path_params} {who}")(scope, receive, send)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError


class Tickets(AsyncPlugin):
    """Serves paths of each kind, and some that can not be."""

    name = "tickets"

    def routes(self) -> Iterable[Route]:
        return (
            Route(path="/tickets/{number}", event="tickets:show"),
            Route(path="/tickets", methods=("POST",), event="tickets:open"),
            Route(path="/tickets/new/{title}", event="tickets:open"),
            Route(path="/tickets.txt", event="tickets:text", media="text/plain"),
            Route(path="/tickets.all", event="tickets:all"),
            Route(path="/page/{rest:path}", app=page),
            Route(path="/open", app=page, is_public=True),
            Route(path="/broken", app=broken),
            Route(path="/v1/mine", app=page),
            Route(path="nowhere", app=page),
            Route(path="/both", app=page, event="tickets:show"),
            Route(path="/unsafe", event="tickets:show", is_public=True),
        )

    @query("tickets:show")
    async def show(self, number: int, verbose: bool = False) -> tuple[int, bool]:
        """Say which."""
        return number, verbose

    @event("tickets:open")
    async def open_ticket(self, title: str) -> str:
        """Say its title."""
        return title

    @query("tickets:text")
    async def text(self) -> str:
        """Say several lines."""
        return "one\ntwo"

    @query("tickets:all")
    async def everything(self) -> str:
        """Say more than a frame holds."""
        return "x" * (2 << 20)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path, plugins=(*PLUGINS, Tickets)) as site:
        yield site


async def test_a_path_asks_an_event_with_what_stands_in_it(http: httpx.AsyncClient) -> None:
    assert (await http.get("/tickets/7?verbose=true")).json() == [7, True]
    refused = await http.get("/tickets/seven")
    assert (refused.status_code, refused.json()["code"]) == (400, "validation_error")
    assert (await http.post("/tickets", json={"title": "broken"})).json() == "broken"
    assert (await http.get("/tickets")).status_code == 405
    assert (await http.get("/tickets/new/once")).status_code == 405, "whoever repeats a GET must not do something twice"


async def test_an_answer_of_another_media_type_is_its_text(http: httpx.AsyncClient) -> None:
    answer = await http.get("/tickets.txt")
    assert (answer.text, answer.headers["content-type"]) == ("one\ntwo", "text/plain")


async def test_what_has_a_path_of_its_own_may_be_larger_than_a_frame(http: httpx.AsyncClient) -> None:
    assert len((await http.get("/tickets.all")).json()) == 2 << 20
    assert (await http.get("/v1/events/tickets:all")).status_code == 413


async def test_an_app_finds_out_who_asks_unless_it_is_public(site: Site, http: httpx.AsyncClient) -> None:
    assert (await http.get("/page/a/b")).text == f"{{'rest': 'a/b'}} {PRINCIPAL}"
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as stranger:
        assert (await stranger.get("/page/a")).status_code == 401
        assert (await stranger.get("/open")).text == "{} nobody"
        assert (await stranger.get("/open", headers={"host": "evil.example"})).status_code == 421


async def test_an_app_that_breaks_breaks_its_answer_and_nothing_else(http: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get("/broken")
    assert (await http.get("/tickets/1")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/mine", "/nowhere", "/both", "/unsafe"])
async def test_a_path_that_can_not_be_is_not_served(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404


async def test_paths_come_and_go_with_their_plugin(site: Site, http: httpx.AsyncClient) -> None:
    await site.ksi.kernel.plugins.unload("tickets")
    assert (await http.get("/tickets/7")).status_code == 404


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json", "/types.ts"])
async def test_a_description_that_nobody_makes_is_a_problem(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_event")
