"""The Claude CLI as a child process: a script that speaks its protocol stands in for it, and fails on command."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from ksi.core.errors import (
    ContextLengthError,
    KSIError,
    ModelUnavailableError,
    NotFoundError,
    ProviderAuthError,
    ProviderBugError,
    ProviderInvalidRequestError,
    ProviderOverloadedError,
    ProviderTimeoutError,
    RateLimitedError,
    StreamInterruptedError,
)
from ksi.providers.base import (
    AnyChunk,
    CompletionRequest,
    FilePart,
    Finished,
    Message,
    TextDelta,
    TextPart,
    Tool,
    Usage,
)
from ksi.providers.claude import ClaudeProvider
from ksi.providers.process_group import LINE_BYTES_MAX
from ksi.providers.timeouts import Timeouts
from tests.providers.faulty_server import ask, collect, take, text_of

pytestmark = pytest.mark.leakcheck

SAYING = """#!{python} -S
import json, os, pathlib, signal, sys, time
HERE = pathlib.Path({here!r})
prompt = sys.stdin.read()
def say(type, **fields):
    print(json.dumps({{**fields, "type": type}}), flush=True)
def event(type, **fields):
    say("stream_event", event={{"type": type, **fields}}, parent_tool_use_id=None)
def token(text):
    event("content_block_delta", index=0, delta={{"type": "text_delta", "text": text}})
def begin():
    (HERE / "pid").write_text(str(os.getpid()))
    say("system", subtype="init", session_id="s", model="sonnet")
    event("message_start", message={{"model": "sonnet-1", "usage": {{"input_tokens": 3}}}})
def end(reason="end_turn"):
    event("message_delta", delta={{"stop_reason": reason}}, usage={{"output_tokens": 2}})
    event("message_stop")
def result(**fields):
    usage = {{"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 2}}
    say("result", **{{"subtype": "success", "is_error": False, "result": "one two", "usage": usage, **fields}})
"""
WHOLE = "begin(); token('one'); token(' two'); end(); result()"


class Cli:
    """Makes providers whose CLI does what it is told in Python."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.providers: list[ClaudeProvider] = []

    def __call__(self, does: str) -> ClaudeProvider:
        script = self.directory / "claude"
        script.write_text(SAYING.format(python=sys.executable, here=str(self.directory)) + does + "\n")
        script.chmod(0o700)
        self.providers.append(ClaudeProvider(command=str(script), models=("sonnet",)))
        return self.providers[-1]

    def noted(self, name: str) -> Any:
        return json.loads((self.directory / name).read_text())

    @property
    def pid(self) -> int:
        return int((self.directory / "pid").read_text())

    async def failure_of(self, does: str, **fields: Any) -> KSIError:
        with pytest.raises(KSIError) as caught:
            await collect(self(does).stream(request(**fields)))
        return caught.value


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    if (tmp_path / "pid").exists():
        assert not group_exists(cli.pid)


def request(text: str = "Go.", **fields: Any) -> CompletionRequest:
    return ask(text, **{"model": "sonnet", **fields})


def group_exists(group: int) -> bool:
    """Whether one of it still runs: who is dead and was not asked for yet by the system's first process does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just gone
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state != "Z":
                return True
    return False


async def test_tokens_come_as_the_cli_says_them_and_usage_is_that_of_its_result(cli: Cli) -> None:
    chunks = await collect(cli(WHOLE).stream(request()))
    usage = Usage(input_tokens=7, output_tokens=2)
    last = Finished(reason="stop", usage=usage, provider="claude", model="sonnet-1")
    assert chunks == [TextDelta(text="one"), TextDelta(text=" two"), last]


async def test_the_cli_gets_the_conversation_on_its_stdin_and_nothing_of_it_among_its_arguments(cli: Cli) -> None:
    noting = """
system = pathlib.Path(sys.argv[sys.argv.index("--system-prompt-file") + 1]).read_text()
bound = os.environ["CLAUDE_CODE_MAX_OUTPUT_TOKENS"]
noted = dict(arguments=sys.argv, prompt=prompt, system=system, bound=bound, cwd=os.listdir())
(HERE / "noted").write_text(json.dumps(noted))
"""
    said = [("system", "Be kind."), ("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = tuple(Message(role=role, parts=(TextPart(text=text),)) for role, text in said)  # type: ignore[arg-type]  # roles
    await collect(cli(noting + WHOLE).stream(request(messages=messages, max_tokens=9)))
    noted = cli.noted("noted")
    assert noted["prompt"].endswith("User: one\n\nAssistant: two\n\nUser: three")
    assert (noted["system"], noted["bound"], noted["cwd"]) == ("Be kind.", "9", ["system"])
    assert noted["arguments"][noted["arguments"].index("--model") + 1] == "sonnet"
    assert not [each for each in noted["arguments"] if "three" in each or "kind" in each]


async def test_an_answer_that_is_too_long_ends_there_and_is_not_begun_again(cli: Cli) -> None:
    chunks = await collect(
        cli("begin(); token('one'); end('max_tokens'); begin(); token('x'); end()").stream(request())
    )
    assert text_of(chunks) == "one"
    last = Finished(reason="length", usage=Usage(input_tokens=3, output_tokens=2), provider="claude", model="sonnet-1")
    assert chunks[-1] == last


async def test_what_nobody_knew_passes_and_a_cli_that_does_not_stream_answers_in_one_piece(cli: Cli) -> None:
    does = "say('system', subtype='api_retry', attempt=1); say('new', x=[1]); say('assistant', message={}); result()"
    assert text_of(await collect(cli(does).stream(request()))) == "one two"


async def test_half_a_line_and_then_the_rest_of_it_is_a_line(cli: Cli) -> None:
    late = (
        "raw = json.dumps({'type': 'x'}); print(raw[:5], end='', flush=True); time.sleep(0.05); print(raw[5:]);" + WHOLE
    )
    assert text_of(await collect(cli(late).stream(request()))) == "one two"


async def test_a_line_of_a_megabyte_passes_and_one_without_end_is_no_flood(cli: Cli) -> None:
    chunks = await collect(cli("begin(); token('x' * (1 << 20)); end(); result()").stream(request()))
    assert len(text_of(chunks)) == 1 << 20
    error = await cli.failure_of(f"begin(); token('x' * {LINE_BYTES_MAX})")
    assert type(error) is ProviderBugError


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        ("pass", StreamInterruptedError),
        ("sys.exit(3)", StreamInterruptedError),
        ("end(); sys.exit(0)", StreamInterruptedError),
        ("print('{\"type\": \"resu', end='', flush=True)", StreamInterruptedError),
        ("os.kill(os.getpid(), signal.SIGKILL)", StreamInterruptedError),
        ("print('no JSON')", ProviderBugError),
        ("print('[1]')", ProviderBugError),
        ("result(is_error=True, api_error_status=429, result='slow down')", RateLimitedError),
        ("result(is_error=True, api_error_status=529)", ProviderOverloadedError),
        ("result(is_error=True, api_error_status=404, result='no such model')", NotFoundError),
        ("result(is_error=True, api_error_status=400, result='prompt is too long')", ContextLengthError),
        ("say('assistant', error='authentication_failed'); result(is_error=True)", ProviderAuthError),
        ("result(is_error=True, subtype='error_during_execution', result=None)", StreamInterruptedError),
        ("event('error', error={'type': 'overloaded_error'})", ProviderOverloadedError),
    ],
)
async def test_each_way_to_fail_has_its_own_error_behind_the_tokens(cli: Cli, does: str, kind: type[KSIError]) -> None:
    stream = cli(f"begin(); token('one'); {does}").stream(request())
    async with aclosing(stream):
        assert await anext(stream) == TextDelta(text="one")
        with pytest.raises(KSIError) as caught:
            await anext(stream)
    assert type(caught.value) is kind


HOLDING = "begin(); token('one'); time.sleep(60)"
IGNORING = "signal.signal(signal.SIGINT, signal.SIG_IGN); os.fork() or time.sleep(60); " + HOLDING


@pytest.mark.parametrize("does", [HOLDING, IGNORING], ids=["listens", "ignores SIGINT"])
async def test_a_cancel_ends_all_of_its_process_group(cli: Cli, does: str) -> None:
    provider = cli(does)
    reading: list[AnyChunk] = []

    async def read() -> None:
        async with aclosing(provider.stream(request())) as chunks:
            async for chunk in chunks:
                reading.append(chunk)
                told.set()

    told = asyncio.Event()
    task = asyncio.create_task(read())
    async with asyncio.timeout(20):
        await told.wait()
        assert group_exists(cli.pid)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert reading == [TextDelta(text="one")]
    assert not group_exists(cli.pid)


async def test_silence_ends_in_time_with_its_process(cli: Cli) -> None:
    stream = cli(HOLDING).stream(request(), timeouts=Timeouts(between_tokens=0.05))
    async with aclosing(stream):
        await take(stream, 1)
        with pytest.raises(ProviderTimeoutError):
            await anext(stream)
    assert not group_exists(cli.pid)


async def test_a_provider_that_is_closed_ends_what_runs(cli: Cli) -> None:
    provider = cli(HOLDING)
    stream = provider.stream(request())
    async with aclosing(stream):
        await take(stream, 1)
        await provider.aclose()
        with pytest.raises(StreamInterruptedError):
            await anext(stream)


PARENT = """
import asyncio, sys
from ksi.providers.claude import ClaudeProvider
from tests.providers.faulty_server import ask
async def main():
    async for chunk in ClaudeProvider(command=sys.argv[1]).stream(ask()):
        print("told", flush=True)
asyncio.run(main())
"""


async def test_the_child_dies_with_a_daemon_that_is_killed(cli: Cli) -> None:
    cli(HOLDING)
    command = [sys.executable, "-c", PARENT, str(cli.directory / "claude")]
    parent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"told\n"
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(20):
        while group_exists(cli.pid):  # noqa: ASYNC110 - nobody here is its parent
            await asyncio.sleep(0.01)


SOUND = Message(role="user", parts=(FilePart(uri="data:,", media_type="audio/wav"),))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5},
        {"stop": ("x",)},
        {"messages": (SOUND,)},
        {"tools": (Tool(name="t", description="", parameters={}),)},
        {"response_schema": {}},
        {"continue_text": "On"},
    ],
)
async def test_what_the_cli_can_not_do_is_refused_and_it_is_not_started(cli: Cli, fields: dict[str, Any]) -> None:
    assert isinstance(await cli.failure_of(WHOLE, **fields), ProviderInvalidRequestError)
    assert not (cli.directory / "pid").exists()


async def test_a_cli_that_is_not_there_is_an_unavailable_model() -> None:
    with pytest.raises(ModelUnavailableError):
        await collect(ClaudeProvider(command="no-such-claude").stream(request()))
