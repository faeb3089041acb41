"""What a call costs: its bound before it is made, out of the request, and its usage after it, out of the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ksi.core import canonical
from ksi.core.errors import BudgetExceededError, KSIError
from ksi.plugins.door.shapes import Asked, Head, Part
from ksi.providers.base import CHARACTERS_PER_TOKEN, Usage
from ksi.providers.budgets import MESSAGE_TOKENS, OTHER_TOKENS, TOOLS_TOKENS, PaidCall, scopes_of
from ksi.providers.sse import EventDecoder, EventTooLongError

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample")
FILES = ("image", "image_url", "input_image", "document", "file", "input_file", "input_audio")
"""Types of parts that are no text."""
ANSWER_BYTES_READ = 8 << 20
"""Of an answer that does not stream: what stands behind them is passed on, and its usage estimated."""
_FILE = re.compile(r'data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+|(?<="data":")[A-Za-z0-9+/=]{64,}')


def paid_call(call: str, asked: Asked, principal: str) -> PaidCall | None:
    """What ``asked`` may cost; None where nothing says that a model is asked."""
    body = asked.json()
    is_counting = asked.path.rpartition("/")[2] == "count_tokens"
    if asked.method != "POST" or is_counting or not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return None
    return PaidCall(
        call=call,
        scopes=scopes_of(principal, asked.protocol),
        provider=asked.protocol,
        model=body["model"],
        input_tokens=_input_tokens_max(asked),
        output_tokens=output_tokens_max(body),
    )


def _input_tokens_max(asked: Asked) -> int:
    """No tokenizer of bytes makes more tokens than there are bytes; an image or file is bounded by itself."""
    text, embedded = _FILE.subn("", asked.body.text)
    files = max(embedded, _files(asked.json()))
    tools = TOOLS_TOKENS if '"tools"' in text or "schema" in text else 0
    return len(text.encode()) + MESSAGE_TOKENS + tools + OTHER_TOKENS * files


def _files(said: Any) -> int:
    """Parts of messages that are an image or a file, wherever that lies."""
    match said:
        case dict():
            return (said.get("type") in FILES) + sum(map(_files, said.values()))
        case list():
            return sum(map(_files, said))
    return 0


def output_tokens_max(body: Mapping[str, Any]) -> int | None:
    """None: the request does not say."""
    said = [body[name] for name in LIMITS if isinstance(body.get(name), int)]
    return max(said) * answers_in(body) if said else None


def answers_in(body: Mapping[str, Any]) -> int:
    """How many are written: a prompt may be a list of texts, or of lists of tokens, each answered by itself."""
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else 1
    choices: list[int] = [said for name in ("n", "best_of") if isinstance(said := body.get(name), int)]
    return prompts * max([1, *choices])


class Meter:
    """Reads the usage out of an answer as it passes."""

    def __init__(self, asked: Asked, granted: int | None) -> None:
        """``granted`` tokens may be written, None: as many as it likes."""
        self._asked = asked
        self.granted = granted
        self._decoder: EventDecoder | None = None
        self._answer = bytearray()
        self._events = 0
        self._input: int | None = None
        self._output: int | None = None
        self._is_refused = False

    def take(self, part: Part) -> None:
        """Look at one part.

        Raises:
            BudgetExceededError: The answer does not end where the budget does.
        """
        if isinstance(part, Head):
            self._is_refused = not part.is_ok
            self._decoder = EventDecoder() if part.header("content-type").startswith("text/event-stream") else None
            return
        raw = part.body.raw()
        if self._decoder is None:
            self._answer += raw[: ANSWER_BYTES_READ - len(self._answer)]
            return
        self._read_events(self._decoder, raw)
        if self.granted is not None and self._events > self.granted:
            raise BudgetExceededError("all", unit="tokens", needed=self._events, left=self.granted)

    def usage(self, *, is_whole: bool) -> Usage:
        """What was used; ``is_whole``: the answer came to its end."""
        if self._decoder is None and is_whole:
            self._read(bytes(self._answer))
        if self._is_refused:
            return Usage(input_tokens=0, output_tokens=0)
        if self._input is not None and self._output is not None:
            return Usage(input_tokens=self._input, output_tokens=self._output)
        return Usage(
            input_tokens=self._input or -(-len(self._asked.body.text) // CHARACTERS_PER_TOKEN),
            output_tokens=max(self._events, -(-len(self._answer) // CHARACTERS_PER_TOKEN)),
            estimated=True,
        )

    def _read_events(self, decoder: EventDecoder, raw: bytes) -> None:
        try:
            events = decoder.feed(raw)
        except EventTooLongError:
            return
        self._events += len(events)  # models that stream say about a token in each
        for data in events:
            if b'"usage"' in data:
                self._read(data)

    def _read(self, raw: bytes) -> None:
        try:
            said = canonical.decode(raw)
        except (ValueError, KSIError):
            return
        if not isinstance(said, dict):
            return
        if isinstance(begun := said.get("message"), dict):  # Anthropic's first event: nothing is written yet
            self._note(begun.get("usage"), is_end=False)
        inner = said.get("response")
        self._note(inner.get("usage") if isinstance(inner, dict) else said.get("usage"), is_end=True)

    def _note(self, usage: Any, *, is_end: bool) -> None:
        if not isinstance(usage, dict):
            return
        cached = sum(_count(usage, name) or 0 for name in ("cache_creation_input_tokens", "cache_read_input_tokens"))
        read = _count(usage, "prompt_tokens", "input_tokens")
        if read is not None:
            self._input = read + cached
        if is_end:
            written = _count(usage, "completion_tokens", "output_tokens")
            self._output = written if written is not None or read is None else 0  # embeddings write nothing


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((usage[name] for name in names if isinstance(usage.get(name), int)), None)
