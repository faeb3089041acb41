"""Requests over HTTP: what goes in, what comes out, and every way in which it may be refused."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from ksi.core import errors, ids
from ksi.core.events import Filter
from ksi.transport.http.problems import status_of
from tests.core.test_errors import tree
from tests.transport.http.site import PRINCIPAL, Site


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────
async def test_a_command_is_answered_recorded_and_its_id_is_told(site: Site, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/state:set", json={"key": "a", "value": 1})
    assert (answer.status_code, answer.json()["version"]) == (200, 1)
    (recorded,) = [event async for event in site.ksi.log.read_all((Filter(kinds=("request",)),))]
    assert ids.text(recorded.event_id.bytes) == answer.headers["ksi-event-id"]
    assert (recorded.metadata["principal"], recorded.name) == (PRINCIPAL, "state:set")


async def test_the_same_key_again_is_the_same_answer_and_not_a_second_act(site: Site, http: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": f'"{ids.text(ids.new_id())}"'}
    payload = {"key": "a", "value": 1}
    first = await http.post("/v1/events/state:set", json=payload, headers=headers)
    again = await http.post("/v1/events/state:set", json=payload, headers=headers)
    other = await http.post("/v1/events/state:set", json=payload | {"value": 2}, headers=headers)
    assert first.json() == again.json()
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


async def test_a_request_without_a_body_has_no_fields(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/system:health")
    assert answer.json()["status"] == "healthy"


async def test_what_stands_beside_the_payload_comes_in_headers(site: Site, http: httpx.AsyncClient) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"ksi-correlation-id": "run-1", "traceparent": trace, "ksi-priority": "7", "ksi-timeout": "5"}
    await http.post("/v1/events/state:set", json={"key": "a", "value": 1}, headers=headers)
    (recorded,) = [event async for event in site.ksi.log.read_all((Filter(kinds=("request",)),))]
    assert recorded.correlation_id == "run-1"


@pytest.mark.parametrize(
    "headers",
    [{"idempotency-key": "no id"}, {"ksi-priority": "high"}, {"ksi-timeout": "-1"}, {"ksi-branch": "x" * 300}],
)
async def test_a_header_that_says_nothing_sensible_is_refused(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await http.post("/v1/events/system:health", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_frame")


async def test_who_prefers_not_to_wait_gets_a_receipt_once_it_is_on_disk(site: Site, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/probe:act", json={"name": "later"}, headers={"prefer": "respond-async"})
    assert answer.status_code == 202
    site.probe.gate.set()
    again = {"idempotency-key": answer.json()["event_id"]}
    assert (await http.post("/v1/events/probe:act", json={"name": "later"}, headers=again)).json() == "later"


async def test_there_is_no_receipt_for_what_is_not_recorded(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/system:health", json={}, headers={"prefer": "respond-async"})
    assert answer.json()["code"] == "unsupported"


async def test_a_query_is_read_with_a_get_and_its_texts_become_what_the_schema_says(http: httpx.AsyncClient) -> None:
    answer = await http.get(
        "/v1/events/probe:ask?text=5&number=5&ratio=1.5&flag=true&names=a&sizes=1&sizes=2&nested={%22a%22:1}&moment=x"
    )
    assert answer.json() == {
        "text": "5",
        "number": 5,
        "ratio": 1.5,
        "flag": True,
        "names": ["a"],
        "sizes": [1, 2],
        "nested": {"a": 1},
        "moment": "x",
        "either": 0,
    }
    assert (await http.get("/v1/events/probe:ask?number=null&moment=7")).json()["moment"] == 7
    assert (await http.get("/v1/events/probe:ask?either=1")).json()["either"] == 1
    assert (await http.get("/v1/events/probe:ask?either=1&either=2")).json()["either"] == [1, 2]


@pytest.mark.parametrize("query", ["number=five", "flag=maybe", "nmae=x", "text=a&text=b"])
async def test_a_query_string_that_does_not_fit_is_a_validation_error(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"/v1/events/probe:ask?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")


@pytest.mark.parametrize("event", ["state:set", "probe:count", "probe:ticks"])
async def test_what_does_more_than_read_is_not_for_get(http: httpx.AsyncClient, event: str) -> None:
    answer = await http.get(f"/v1/events/{event}?key=a&value=1")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "unsupported", "POST")


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_other_media_types_are_refused(http: httpx.AsyncClient, media: str) -> None:
    answer = await http.post("/v1/events/state:set", content=b"{}", headers={"content-type": media})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "validation_error"),
        (b"[]", "validation_error"),
        (b'{"key":5}', "validation_error"),
        (b'{"kee":"a"}', "validation_error"),
        (b"\xff", "validation_error"),
        (b'{"key":"a","value":' + b"[" * 100_000, "validation_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:12]),
)
async def test_a_payload_that_does_not_fit_is_a_problem_with_its_place(
    http: httpx.AsyncClient, body: bytes, code: str
) -> None:
    answer = await http.post("/v1/events/state:set", content=body, headers={"content-type": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (400, 400, code)
    assert problem["type"] == f"urn:ksi:error:{code}"
    assert problem["detail"]


async def test_an_unknown_event_is_named_with_what_looks_like_it(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/state:sett", json={})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_event")
    assert "state:set" in answer.json()["details"]["suggestions"]


@pytest.mark.parametrize(("path", "status"), [("/", 404), ("/v1/events", 404), ("/v1/events/a/b", 404)])
async def test_a_path_that_is_not_there_is_a_problem_too(http: httpx.AsyncClient, path: str, status: int) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, "not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/events/state:set", "POST"),
        ("/v1/events/state:get", "GET, HEAD, POST"),
        ("/v1/events/probe:ticks", "POST"),
        ("/v1/stream/probe:count", "POST"),
        ("/v1/stream/probe/1@2", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_there_is_a_problem_that_says_which_are(
    http: httpx.AsyncClient, path: str, allowed: str
) -> None:
    answer = await http.delete(path)
    assert (answer.status_code, answer.json()["code"]) == (405, "unsupported")
    assert answer.headers["allow"] == allowed


async def test_null_is_no_body_and_no_timeout(http: httpx.AsyncClient) -> None:
    body = await http.post("/v1/events/state:list", content=b" null", headers={"content-type": "application/json"})
    assert (body.status_code, body.json()["code"]) == (400, "validation_error")
    timeout = await http.post("/v1/events/state:list", json={}, headers={"ksi-timeout": "null"})
    assert (timeout.status_code, timeout.json()["code"]) == (400, "invalid_frame")


async def test_what_a_handler_raises_by_accident_is_told_without_its_traceback(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/probe:break", json={})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "Traceback" not in answer.text


async def test_an_answer_that_does_not_fit_is_an_error(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/probe:large", json={"size": 2_000_000})
    assert answer.json()["code"] == "payload_too_large"


async def test_a_limit_that_says_when_to_come_back_says_it_in_a_header(http: httpx.AsyncClient) -> None:
    arguments = {"what": "the rate", "limit": 5, "retry_after": 1.2}
    answer = await http.post("/v1/events/probe:fail", json={"kind": "OverloadedError", "arguments": arguments})
    assert (answer.status_code, answer.headers["retry-after"], answer.json()["retryable"]) == (429, "2", True)


async def test_the_limit_of_the_caller_is_a_gateway_timeout(site: Site, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events/probe:act", json={"name": "late"}, headers={"ksi-timeout": "0.05"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_of_an_error(kind: type[errors.KSIError]) -> None:
    assert 400 <= status_of(kind) < 600


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.ValidationError, 400),
        (errors.UnauthorizedError, 401),
        (errors.PermissionDeniedError, 403),
        (errors.NotFoundError, 404),
        (errors.WrongExpectedVersionError, 409),
        (errors.PayloadTooLargeError, 413),
        (errors.OverloadedError, 429),
        (errors.ShuttingDownError, 503),
        (errors.UnavailableError, 503),
        (errors.EventTimeoutError, 504),
        (errors.InterruptedRunError, 500),
    ],
)
def test_an_error_has_the_status_that_every_client_knows(kind: type[errors.KSIError], status: int) -> None:
    assert status_of(kind) == status


def test_an_error_of_a_plugins_own_has_the_status_of_its_family() -> None:
    class TicketGoneError(errors.NotFoundError):
        code = "ticket_gone"

    assert status_of(TicketGoneError) == 404


# ── who leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────
async def leave(site: Site, event: str, data: dict[str, Any]) -> None:
    """Ask, and hang up once the handler has begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    body = msgspec.json.encode(data)
    writer.write(
        f"POST /v1/events/{event} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {site.token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    async with asyncio.timeout(5):
        await site.probe.began.wait()
    writer.transport.abort()
    assert reader is not None


async def test_a_query_whose_client_leaves_is_cancelled(site: Site) -> None:
    await leave(site, "probe:wait", {})
    await site.until(lambda: site.probe.ended == ["cancelled"])


async def test_a_command_whose_client_leaves_is_done_and_recorded(site: Site) -> None:
    await leave(site, "probe:act", {"name": "gone"})
    await site.until(lambda: not site.server.state.connections)
    for _ in range(10):
        await asyncio.sleep(0)  # whoever is told of it has been told
    site.probe.gate.set()
    await site.until(lambda: site.probe.ended == ["gone"])
    await site.until(lambda: not site.ksi.kernel.router.running)
    assert [done.data for done in await site.ksi.facts("probe:done")] == [{"name": "gone"}]
