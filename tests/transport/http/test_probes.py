"""What supervisors and Prometheus ask."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx

from tests.transport.http.site import Site, serving

SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="[^"\\]*"(,[a-z]+="[^"\\]*")*\})? [0-9.e+-]+')


async def test_a_daemon_that_drains_is_alive_and_not_ready(tmp_path: Path) -> None:
    async with serving(tmp_path) as site, site.client() as http:
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        await site.ksi.kernel.router.drain(0.1)
        refused = await http.get("/readyz")
        assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
        assert (await http.get("/healthz")).status_code == 200
        command = await http.post("/v1/events/state:set", json={"key": "a", "value": 1})
        assert (command.status_code, command.json()["code"]) == (503, "shutting_down")


async def test_metrics_count_requests_by_event_and_errors_by_code(site: Site, http: httpx.AsyncClient) -> None:
    for value in (1, 2, "x"):
        await http.post("/v1/events/state:set", json={"key": "a", "value": value})
    await http.post("/v1/events/state:set", json={"key": 5})
    async with http.stream("POST", "/v1/stream/probe:held", json={}):
        await site.until(site.probe.began.is_set)
        answer = await http.get("/metrics")
    lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'ksi_requests_total{event="state:set"} 4' in lines
    assert 'ksi_errors_total{event="state:set",code="validation_error"} 1' in lines
    assert 'ksi_requests_in_flight{kind="stream"} 1' in lines
    assert 'ksi_connections{door="http"} 2' in lines


async def test_metrics_are_of_the_form_that_prometheus_reads(http: httpx.AsyncClient) -> None:
    await http.post("/v1/events/state:set", json={"key": "a", "value": 1})
    lines = (await http.get("/metrics")).text.splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert samples
    assert [line for line in samples if not SAMPLE.fullmatch(line)] == []
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {re.sub(r"_(bucket|sum|count)$", "", re.split(r"[{ ]", line)[0]) for line in samples} == typed


async def test_no_label_holds_an_id_or_a_principal(site: Site, http: httpx.AsyncClient) -> None:
    told = await http.post("/v1/events/state:set", json={"key": "a-secret-key", "value": 1})
    text = (await http.get("/metrics")).text
    for secret in (told.headers["ksi-event-id"], site.token, "uid:1000", "a-secret-key"):
        assert secret not in text


async def test_the_head_of_an_answer_can_be_asked_for_alone(http: httpx.AsyncClient) -> None:
    for _ in range(2):  # the connection goes on
        answer = await http.head("/healthz")
        assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "20", b"")


async def test_who_waits_for_leave_to_send_its_body_gets_it(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(
        b"POST /v1/events/probe:ask HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 2\r\n"
        b"content-type: application/json\r\nauthorization: Bearer %b\r\n\r\n" % site.token.encode()
    )
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    writer.close()
