"""The Claude CLI, as it is installed and logged in on this machine: one child process for each answer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Literal

from ksi.core.errors import ModelUnavailableError
from ksi.providers.base import AnyChunk, Capabilities, CompletionRequest, ModelInfo, require
from ksi.providers.claude_format import LineReader, prompt_of, system_of
from ksi.providers.process_group import ProcessGroup, running
from ksi.providers.timeouts import DEFAULT_TIMEOUTS, Thinking, Timeouts, patiently

PROVIDER = "claude"
NO_INSTRUCTIONS = "Answer."
"""Without any it would take its own, which are for writing programs."""
ARGUMENTS = (
    "-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages",
    # Nothing of this machine's user: a completion is what was sent, and the CLI does nothing but answer.
    "--tools", "", "--strict-mcp-config", "--setting-sources", "", "--disable-slash-commands",
    "--no-session-persistence", "--max-turns", "1",
)  # fmt: skip
ENVIRONMENT = {
    "CLAUDE_CODE_MAX_RETRIES": "0",  # only KSI retries
    "MAX_THINKING_TOKENS": "0",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


class ClaudeProvider:
    """Completions by the Claude CLI. Its own tools are off, and it knows no ``seed``.

    Args:
        command: The CLI, by name or path.
        models: What it may be asked for; it does not list any itself.
        log_path: Where its own words go; None: nowhere.
    """

    name = PROVIDER
    capabilities = Capabilities()
    writes_ahead: Literal[True] = True

    def __init__(self, *, command: str = "claude", models: Sequence[str] = (), log_path: Path | None = None) -> None:
        self._command = command
        self._models = list(models)
        self._log_path = log_path
        self._children: set[ProcessGroup] = set()

    async def start(self) -> None:
        """Nothing to do: each answer has a process of its own."""

    async def aclose(self) -> None:
        for child in self._children:
            child.kill()

    async def models(self) -> list[ModelInfo]:
        return [ModelInfo(name=name, provider=self.name) for name in self._models]

    def stream(
        self, request: CompletionRequest, *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> AsyncGenerator[AnyChunk, None]:
        return patiently(self._chunks(request), timeouts, provider=self.name)

    async def _chunks(self, request: CompletionRequest) -> AsyncGenerator[AnyChunk | Thinking, None]:
        require(request, self.capabilities, provider=self.name)
        prompt, reader = prompt_of(request, provider=self.name), LineReader(request, provider=self.name)
        async with self._child(request) as child, aclosing(child.lines(prompt)) as lines:
            async for line in lines:
                for chunk in reader.feed(line):
                    yield chunk
                if reader.is_done:
                    break
        yield reader.finished()

    @asynccontextmanager
    async def _child(self, request: CompletionRequest) -> AsyncIterator[ProcessGroup]:
        command = shutil.which(self._command)
        if command is None:
            message = f"there is no {self._command!r}: install the Claude CLI, or set providers.claude.command"
            raise ModelUnavailableError(message, provider=self.name)
        with tempfile.TemporaryDirectory(prefix="ksi-claude-") as directory:
            arguments = [*ARGUMENTS, "--model", request.model, "--system-prompt-file", _system_file(directory, request)]
            environment = {**os.environ, **ENVIRONMENT, **_bounds(request)}
            async with running(
                [command, *arguments],
                provider=self.name, environment=environment, cwd=Path(directory), log_path=self._log_path,
            ) as child:  # fmt: skip
                self._children.add(child)
                try:
                    yield child
                finally:
                    self._children.discard(child)


def _system_file(directory: str, request: CompletionRequest) -> str:
    """Not among the arguments, which every user of the machine can read."""
    file = Path(directory, "system")
    file.write_text(system_of(request) or NO_INSTRUCTIONS)
    return str(file)


def _bounds(request: CompletionRequest) -> dict[str, str]:
    return {} if request.max_tokens is None else {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(request.max_tokens)}
