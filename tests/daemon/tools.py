"""A plugin whose handlers start processes that ask the daemon, as the tools of an agent do."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import msgspec

from ksi.core.ports import Tokens
from ksi.kernel.declare import event
from ksi.kernel.plugin import AsyncPlugin

ASKING = """
import json
from ksi import KSIError, SyncEventClient

with SyncEventClient() as client:
    try:
        print(json.dumps(client.request("permission:show")["principal"]))
    except KSIError as error:
        print(json.dumps(error.code))
"""


class Tools(AsyncPlugin):
    name = "tools"

    @event("tools:run")
    async def run(self, principal: str | None = None) -> Any:
        """Whom a child of this process is taken for: without a token, or with one of ``principal``."""
        environ = os.environ | {"KSI_HOME": str(self.host.home)}
        if principal is not None:
            tokens = self.host.services.get(Tokens)
            environ["KSI_TOKEN"] = await asyncio.to_thread(tokens.create, principal, "restricted", 60.0)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASKING, env=environ, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await child.communicate()
        return msgspec.json.decode(said)
