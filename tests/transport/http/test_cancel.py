"""DELETE /v1/requests/ID: cancelled by its sender, who is told the end where it was asked."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.transport.http.site import Site
from tests.transport.http.test_streams import all_events

ID = "01975f0c-3b1a-7c7e-9c55-6f8a54f0a8a3"
UNDER_ID = {"idempotency-key": ID}


async def test_a_command_is_cancelled_and_answers_so(site: Site, http: httpx.AsyncClient) -> None:
    asking = asyncio.create_task(http.post("/v1/events/probe:act", json={"name": "a"}, headers=UNDER_ID))
    await site.probe.began.wait()
    assert (await http.delete(f"/v1/requests/{ID}")).status_code == 202
    answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (409, "cancelled")
    assert (await http.delete(f"/v1/requests/{ID}")).status_code == 404


async def test_a_stream_is_cancelled_and_ends_so(site: Site, http: httpx.AsyncClient) -> None:
    streaming = asyncio.create_task(all_events(http, "POST", "/v1/stream/probe:held", json={}, headers=UNDER_ID))
    await site.probe.began.wait()
    assert (await http.delete(f"/v1/requests/{ID}")).status_code == 202
    assert [(said.event, said.data.get("code")) for said in (await streaming)[-1:]] == [("failure", "cancelled")]


async def test_what_somebody_else_asked_for_is_not_to_be_found(site: Site, http: httpx.AsyncClient) -> None:
    asking = asyncio.create_task(http.post("/v1/events/probe:act", json={"name": "a"}, headers=UNDER_ID))
    await site.probe.began.wait()
    other = {"authorization": f"Bearer {site.tokens.create('agent:eve')}"}
    refused = await http.delete(f"/v1/requests/{ID}", headers=other)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    site.probe.gate.set()
    assert (await asking).status_code == 200


@pytest.mark.parametrize(("event_id", "status"), [(ID, 404), ("x", 400)])
async def test_an_id_under_which_nothing_runs(http: httpx.AsyncClient, event_id: str, status: int) -> None:
    assert (await http.delete(f"/v1/requests/{event_id}")).status_code == status
