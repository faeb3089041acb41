"""Who may come in, and who may not: tokens, hosts, origins; where the server may listen."""

from __future__ import annotations

import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ksi.core.clock import SystemClock
from ksi.core.config import HttpSection
from ksi.core.errors import ConfigError
from ksi.transport.http.binding import refuse_open
from tests.transport.http.site import Site, serving
from tests.transport.http.test_websocket import opened

CLIENTS = ("httpx", "httpcore", "websockets.client")
"""Loggers of the test's own side."""


class Calendar(SystemClock):
    """A clock that the test sets."""

    ahead_us = 0

    def time_us(self) -> int:
        return super().time_us() + self.ahead_us


@pytest.fixture
async def stranger(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        yield client


async def ask(client: httpx.AsyncClient, **headers: str) -> tuple[int, str]:
    answer = await client.post("/v1/events/system:health", json={}, headers=headers)
    return answer.status_code, answer.json().get("code", "")


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer ksi_00000000_x", "Bearer ä"]
)
async def test_without_the_right_token_nobody_comes_in(stranger: httpx.AsyncClient, given: str) -> None:
    headers = [(b"authorization", given.encode())] if given else []
    answer = await stranger.post("/v1/events/system:health", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_right_token_with_another_secret_is_wrong(site: Site, stranger: httpx.AsyncClient) -> None:
    assert await ask(stranger, authorization=f"bearer {site.token}") == (200, "")
    assert await ask(stranger, authorization=f"Bearer {site.token[:-1]}") == (401, "unauthorized")


async def test_a_revoked_token_counts_no_more(site: Site, http: httpx.AsyncClient) -> None:
    assert await ask(http) == (200, "")
    site.tokens.revoke(site.tokens.list()[0].id)
    assert await ask(http) == (401, "unauthorized")


async def test_a_token_that_has_expired_counts_no_more(tmp_path: Path) -> None:
    clock = Calendar()
    async with serving(tmp_path, clock=clock) as site, httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        token = site.tokens.create("guest", ttl=60)
        assert await ask(client, authorization=f"Bearer {token}") == (200, "")
        clock.ahead_us = 61_000_000
        assert await ask(client, authorization=f"Bearer {token}") == (401, "unauthorized")


async def test_a_principal_may_do_what_its_profile_allows(site: Site, stranger: httpx.AsyncClient) -> None:
    token = site.tokens.create("reader", "restricted")
    answer = await stranger.post("/v1/events/permission:show", json={}, headers={"authorization": f"Bearer {token}"})
    assert answer.json()["principal"] == "reader"


async def test_only_the_probes_need_no_token(stranger: httpx.AsyncClient) -> None:
    assert [(await stranger.get(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    for path in ("/v1/events/system:health", "/v1/subscribe", "/v1/stream/count/1"):
        assert (await stranger.get(path)).status_code == 401


# ── hosts and origins ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7474", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
async def test_a_name_that_is_not_the_daemons_is_refused_before_the_token_is_looked_at(
    http: httpx.AsyncClient, host: str
) -> None:
    assert await ask(http, host=host) == (421, "misdirected")
    for method, path in (("GET", "/nowhere"), ("OPTIONS", "/v1/events/probe:ask")):
        assert (await http.request(method, path, headers={"host": host})).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:7474"])
async def test_the_daemon_answers_to_its_loopback_names(http: httpx.AsyncClient, host: str) -> None:
    assert await ask(http, host=host) == (200, "")


async def test_the_daemon_answers_to_the_names_that_are_configured(tmp_path: Path) -> None:
    async with serving(tmp_path, HttpSection(port=0, hosts=("ksi.lan",))) as site, site.client() as http:
        assert await ask(http, host="ksi.lan:80") == (200, "")
        assert await ask(http, host="other.lan") == (421, "misdirected")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://"])
async def test_a_page_of_another_origin_is_refused(http: httpx.AsyncClient, origin: str) -> None:
    assert await ask(http, host="localhost:7474", origin=origin) == (421, "misdirected")
    assert await ask(http, host="localhost:7474", **{"sec-fetch-site": "cross-site"}) == (421, "misdirected")


async def test_a_page_of_the_daemons_own_may_ask_and_no_other_is_ever_told_that_it_may(http: httpx.AsyncClient) -> None:
    assert await ask(http, host="localhost:7474", origin="http://localhost:7474") == (200, "")
    preflight = await http.options("/v1/events/system:health", headers={"origin": "https://evil.example"})
    assert not [name for name in preflight.headers if name.startswith("access-control")]


# ── where it listens ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "ksi.example"])
def test_another_host_than_this_machine_needs_tls_or_a_word(host: str) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_open(HttpSection(host=host))
    assert refused.value.where == "http.host"
    refuse_open(HttpSection(host=host, expose=True))
    refuse_open(HttpSection(host=host, certificate="cert.pem"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_nothing(host: str) -> None:
    refuse_open(HttpSection(host=host))


async def test_a_port_that_is_taken_is_said_so(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        async with serving(tmp_path / "other", HttpSection(port=site.port)):
            pass
    assert refused.value.where == "http.port"


async def test_a_unix_socket_speaks_http_too_and_only_its_owner_opens_it(tmp_path: Path) -> None:
    async with serving(tmp_path, HttpSection(port=0, socket="http.sock")) as site:
        path = tmp_path / "http.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with site.client(transport=transport) as http:
            assert await ask(http, host="localhost") == (200, "")
    assert not path.exists()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of localhost, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    file, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = f"-keyout {key} -out {file} -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    how = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    subprocess.run(["openssl", *how.split(), *made.split()], check=True, capture_output=True)
    return file


async def test_with_a_certificate_it_speaks_tls_and_nothing_else(certificate: Path, tmp_path: Path) -> None:
    key = certificate.with_name("key.pem")
    section = HttpSection(host="0.0.0.0", port=0, certificate=str(certificate), certificate_key=str(key))
    refuse_open(section)
    async with serving(tmp_path, section) as site:
        assert site.url.startswith("https://localhost:")
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with site.client(verify=trusted) as http:
            assert await ask(http) == (200, "")
        async with opened(site, token=site.token, ssl=trusted) as connection:
            await connection.send('{"id":1,"event":"system:health"}')
            assert '"ok":true' in await connection.recv()
        async with httpx.AsyncClient(trust_env=False) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(site.url.replace("https", "http"))


async def test_a_certificate_that_can_not_be_read_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        async with serving(tmp_path, HttpSection(port=0, certificate=str(tmp_path / "none.pem"))):
            pass
    assert refused.value.where == "http.certificate"


# ── what is written down ─────────────────────────────────────────────────────────────────────────────────────────────
async def test_no_log_line_holds_a_token(site: Site, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await ask(http)
    await ask(http, authorization="Bearer ksi_00000000_not-the-right-one")
    async with opened(site) as connection:
        await connection.send(f'{{"hello":1,"token":"{site.token}"}}')
        await connection.recv()
    said = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith(CLIENTS))
    assert site.token not in said
    assert "not-the-right-one" not in said
