"""Plugins of a real daemon that do not start, and those that start late."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksi.core.errors import NoHandlerError, UnknownEventError
from ksi.testing.daemon_process import DaemonProcess

BROKEN = """
from ksi.kernel.declare import query
from ksi.kernel.plugin import AsyncPlugin


class Weather(AsyncPlugin):
    name = "weather"

    async def initialize(self) -> None:
        {initialize}

    @query("weather:today")
    async def today(self) -> str:
        return "sun"
"""


async def test_an_event_whose_plugin_did_not_start_has_no_handler_and_one_of_nobody_is_unknown(tmp_path: Path) -> None:
    file = tmp_path / "weather.py"
    file.write_text(BROKEN.format(initialize='raise RuntimeError("no station")'))
    async with DaemonProcess(tmp_path / "home", file) as daemon, daemon.client() as client:
        with pytest.raises(NoHandlerError) as caught:
            await client.request("weather:today")
        assert (caught.value.event_name, caught.value.plugin) == ("weather:today", "weather")
        with pytest.raises(UnknownEventError):
            await client.request("weather:tomorrow")
        file.write_text(BROKEN.format(initialize="pass"))
        await client.request("plugin:load", target=str(file))
        assert await client.request("weather:today") == "sun"
