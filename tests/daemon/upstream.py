"""A small server that speaks as OpenAI's and Anthropic's do, and scripts that ask it with their own packages."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from ksi.testing.daemon_process import DaemonProcess

KEY = "sk-of-the-script"
Json = dict[str, Any]


class Upstream:
    """Answers with the last message turned round; a prompt that begins with ``hold`` waits after its first token.

    The answer to one that begins with ``dear`` has 500 tokens by its own count, all others have 3.
    """

    def __init__(self) -> None:
        self.url = ""
        self.connections = 0
        self.bodies: list[Json] = []
        self.keys: list[str] = []
        self.reader_gone = asyncio.Event()
        self.go_on = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def prompts(self) -> list[str]:
        return [_prompt(body) for body in self.bodies]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = msgspec.json.decode(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        self.bodies.append(body)
        self.keys.append(headers.get("x-api-key") or headers.get("authorization", ""))
        path = head[0].split(" ")[1]
        events = _openai(body) if path.startswith("/v1/chat") else _anthropic(body)
        if path == "/v1/responses":
            events = _responses(body)
        if "messages" not in body and "input" not in body:
            said = {"path": path.replace(KEY, "*" * len(KEY)), "method": head[0].partition(" ")[0]}
            _write(writer, b"200 OK", {"object": "list", "data": [{"id": "m", "object": "model"}], **said})
        elif not body.get("stream"):
            _write(writer, b"200 OK", _whole(path, body))
        else:
            await self._stream(reader, writer, events, holds=_prompt(body).startswith("hold"))
        await writer.drain()

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events: list[bytes], *, holds: bool
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number, event in enumerate(events):
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            if holds and number == 1:
                await self._held(reader)
        writer.write(b"0\r\n\r\n")

    async def _held(self, reader: asyncio.StreamReader) -> None:
        gone, told = asyncio.ensure_future(reader.read(1)), asyncio.ensure_future(self.go_on.wait())
        await asyncio.wait((gone, told), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if gone.done():
            self.reader_gone.set()
            raise ConnectionResetError
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


def _write(writer: asyncio.StreamWriter, status: bytes, said: Json) -> None:
    raw = msgspec.json.encode(said)
    writer.write(
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nset-cookie: a=b\r\ncontent-length: %d\r\n\r\n%b"
        % (status, len(raw), raw)
    )


def _whole(path: str, body: Json) -> Json:
    whole = {"/v1/responses": _response, "/v1/chat/completions": _whole_openai}.get(path, _whole_anthropic)
    return whole(body)


def _prompt(body: Json) -> str:
    if "input" in body:
        return str(body["input"])
    content = body.get("messages", [{"content": ""}])[-1]["content"]
    return content if isinstance(content, str) else str(content)


def _words(body: Json) -> list[str]:
    return [f"{word} " for word in reversed(_prompt(body).split())]


def _whole_openai(body: Json) -> Json:
    message: Json = {"role": "assistant", "content": "".join(_words(body))}
    if body.get("tools") and body["messages"][-1]["role"] != "tool":
        call = {"id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(body),
    }  # fmt: skip


def _usage(body: Json) -> Json:
    written = 500 if _prompt(body).startswith("dear") else 3
    return {"prompt_tokens": 7, "completion_tokens": written, "total_tokens": 7 + written}


def _openai(body: Json) -> list[bytes]:
    start = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
    deltas: list[Json] = [
        {**start, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in _words(body)
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        deltas.append({**start, "choices": [], "usage": _usage(body)})
    return [*(b"data: %b\n\n" % msgspec.json.encode(delta) for delta in deltas), b"data: [DONE]\n\n"]


def _response(body: Json) -> Json:
    text = {"type": "output_text", "text": "".join(_words(body)), "annotations": []}
    message = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [text]}
    return {
        "id": "r", "object": "response", "created_at": 1, "model": body["model"], "status": "completed",
        "output": [message], "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
        "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
    }  # fmt: skip


def _responses(body: Json) -> list[bytes]:
    whole = _response(body)
    place: Json = {"item_id": "i", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    events: list[Json] = [
        {"type": "response.created", "response": {**whole, "output": [], "usage": None, "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**whole["output"][0], "content": []}},
        {"type": "response.content_part.added", **place, "part": part},
    ]
    events += [{"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in _words(body)]
    events.append({"type": "response.completed", "response": whole})
    numbered = [{"sequence_number": number, **event} for number, event in enumerate(events)]
    return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in numbered]


def _whole_anthropic(body: Json) -> Json:
    content: Json = {"type": "text", "text": "".join(_words(body))}
    if body.get("tools") and "tool_result" not in str(body["messages"][-1]):
        content = {"type": "tool_use", "id": "call-1", "name": "add", "input": {"a": 2, "b": 3}}
    return {
        "id": "m", "type": "message", "role": "assistant", "model": body["model"], "content": [content],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 3},
    }  # fmt: skip


def _anthropic(body: Json) -> list[bytes]:
    message = {**_whole_anthropic({**body, "model": body.get("model", "")}), "content": [], "stop_reason": None}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    events: list[Json] = [{"type": "message_start", "message": message}, block]
    deltas = [{"type": "text_delta", "text": word} for word in _words(body)]
    events += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    events += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in events]


@asynccontextmanager
async def serving() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield upstream
        await upstream.close()


class Ran(msgspec.Struct):
    code: int
    out: str
    said: str


class Scripts:
    """Runs ``ksi record|replay|whatif … -- python SCRIPT`` on the home of a daemon."""

    def __init__(self, daemon: DaemonProcess, upstream: Upstream, path: Path) -> None:
        self.daemon = daemon
        self.upstream = upstream
        self._path = path

    def script(self, name: str, text: str) -> str:
        file = self._path / name
        file.write_text(text)
        return str(file)

    async def __call__(self, *arguments: str, variables: Mapping[str, str] | None = None) -> Ran:
        """``ksi ARGUMENTS``, where ``--`` stands for ``-- python``."""
        line = [part for each in arguments for part in ((each, sys.executable) if each == "--" else (each,))]
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": f"{self.upstream.url}/v1",
            "ANTHROPIC_BASE_URL": self.upstream.url,
            "OPENAI_API_KEY": KEY,
            "ANTHROPIC_API_KEY": KEY,
            **(variables or {}),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ksi.cli", "--home", str(self.daemon.home.path), *line,
            env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, said = await process.communicate()
        return Ran(process.returncode or 0, out.decode(), said.decode())
