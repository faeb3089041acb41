"""The page about traces and metrics lists what the daemon shows."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from ksi.testing.daemon_process import DaemonProcess
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "how-to" / "observe.md"
ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \|", re.MULTILINE)
SETTINGS = {"http.port": 0, "providers.default": "script", "providers.script": "There was a lighthouse"}


def listed() -> dict[tuple[str, str], set[str]]:
    """Labels by name and type, as the page has them."""
    rows = ROW.findall(PAGE.read_text())
    return {(name, kind): {label.group(1) for label in re.finditer(r"`(\w+)`", labels)} for name, kind, labels in rows}


def shown(text: str) -> dict[tuple[str, str], set[str]]:
    """The same, as ``/metrics`` has them."""
    found = {}
    for part in text.split("# TYPE ")[1:]:
        head, *samples = part.splitlines()
        name, kind = head.split()
        found[name, kind] = set(re.findall(r"(\w+)=\"", " ".join(samples)))
    return found


async def test_the_page_lists_every_metric_with_its_type_and_labels(tmp_path: Path) -> None:
    async with DaemonProcess(tmp_path / "home", settings=SETTINGS) as daemon, daemon.client() as ksi:
        await ksi.request("completion:create", prompt="Once")
        await ksi.try_request("state:get", key=5)
        token = daemon.home.token_file
        async with httpx.AsyncClient(base_url=await daemon.http_url(), trust_env=False) as http:
            answer = await http.get("/metrics", headers={"authorization": f"Bearer {token.read_text().strip()}"})
    assert shown(answer.text) == listed()
    assert 'ksi_tokens_total{provider="script",direction="output"}' in answer.text
    assert re.search(r'^ksi_request_seconds_count\{event="completion:create"\} 1$', answer.text, re.MULTILINE)
    assert re.search(
        r'^ksi_request_seconds_bucket\{event="completion:create",le="\+Inf"\} 1$', answer.text, re.MULTILINE
    )
