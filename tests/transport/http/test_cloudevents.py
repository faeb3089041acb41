"""CloudEvents: in one document or in headers, in and out."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ksi.core import ids
from ksi.core.envelope import EventEnvelope
from ksi.core.events import Filter
from tests.transport.http.site import PRINCIPAL, Site

MEDIA = "application/cloudevents+json"


def cloudevent(**changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": ids.text(ids.new_id()),
        "type": "state:set",
        "source": "/shop",
        "time": "2026-11-24T10:00:00Z",
        "ksicorrelation": "run-1",
        "data": {"key": "a", "value": "ä"},
    } | changes


async def test_a_structured_event_is_a_request_and_its_answer_an_event_that_names_it(
    site: Site, http: httpx.AsyncClient
) -> None:
    sent = cloudevent()
    headers = {"content-type": f"{MEDIA}; charset=utf-8", "accept": MEDIA}
    answer = await http.post(
        "/v1/events/state:set", content=httpx.Request("POST", "http://a", json=sent).content, headers=headers
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA)
    outcome = EventEnvelope.from_cloudevent(answer.json())
    assert (outcome.name, outcome.correlation, outcome.data["version"]) == ("state:set", "run-1", 1)
    assert outcome.cause == ids.parse(sent["id"])
    (recorded,) = [event async for event in site.ksi.log.read_all((Filter(kinds=("request",)),))]
    assert (recorded.metadata["principal"], recorded.metadata["source"]) == (PRINCIPAL, "/shop")


async def test_a_binary_event_is_answered_in_headers(http: httpx.AsyncClient) -> None:
    sent = cloudevent(ksicorrelation="run ä", ksihops=3)
    headers = {f"ce-{name}": str(value).replace("ä", "%C3%A4") for name, value in sent.items() if name != "data"}
    answer = await http.post("/v1/events/state:set", json=sent["data"], headers=headers)
    assert (answer.status_code, answer.json()["version"]) == (200, 1)
    assert answer.headers["ce-type"] == "state:set"
    assert answer.headers["ce-ksicause"] == sent["id"]
    assert answer.headers["ce-ksicorrelation"] == "run%20%C3%A4"
    assert answer.headers["ce-ksihops"] == "3"


async def test_the_same_event_again_is_the_same_answer(http: httpx.AsyncClient) -> None:
    sent, headers = cloudevent(), {"content-type": MEDIA, "accept": MEDIA}
    answers = [await http.post("/v1/events/state:set", json=sent, headers=headers) for _ in range(2)]
    first, again = ({**answer.json(), "time": ""} for answer in answers)
    assert first == again
    assert first["data"]["version"] == 1


async def test_who_sends_an_event_does_not_say_who_it_is(site: Site, http: httpx.AsyncClient) -> None:
    sent = cloudevent(ksiprincipal="daemon", ksipath="forged/0")
    await http.post("/v1/events/state:set", json=sent, headers={"content-type": MEDIA})
    (recorded,) = [event async for event in site.ksi.log.read_all((Filter(kinds=("request",)),))]
    assert recorded.metadata["principal"] == PRINCIPAL


@pytest.mark.parametrize(
    "changes",
    [{"type": "state:get"}, {"id": "5"}, {"specversion": "0.3"}, {"source": 5}, {"time": "today"}, {"ksihops": "many"}],
    ids=lambda changes: next(iter(changes)),
)
async def test_what_is_no_cloudevent_of_that_name_is_refused(http: httpx.AsyncClient, changes: dict[str, Any]) -> None:
    answer = await http.post("/v1/events/state:set", json=cloudevent(**changes), headers={"content-type": MEDIA})
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")


@pytest.mark.parametrize("body", [b"[]", b"5", b"{", b""])
async def test_a_document_that_is_no_object_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1/events/state:set", content=body, headers={"content-type": MEDIA})
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")
