"""The client starts quickly: it brings none of the heavy libraries."""

import subprocess
import sys


def test_the_client_imports_nothing_heavy() -> None:
    code = (
        "import sys, ksi.client.client, ksi.client.sync; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "httpx", "starlette", "rich", "structlog", "uvloop", "click", "apsw", "websockets"} & set(
        modules
    )
