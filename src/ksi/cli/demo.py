"""``ksi demo``: the main job on the real model, with its claims checked against the log."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import NoReturn

import click
import msgspec

from ksi.cli.invocation import Invocation, command
from ksi.cli.stage import Chunk, Stage, Told
from ksi.providers.model import PROVIDER, SMOLLM2, ModelStore

PROMPT = "Tell me about a lighthouse at night."
LONG_PROMPT = "Tell me a long story about a ship that came back."
SEEN_BEFORE_THE_KILL = 12
SEEN_BEFORE_THE_CANCEL = 6
TURN_TOKENS = 12
AGENTS = ("ada", "ben")
SYSTEM = "You write a story together with a friend. Answer with one short sentence that goes on with it."
OPENING = "The old lighthouse had been dark for years, until one night a light appeared."
IDLE_WITHIN = 2.0
IDLE_SHARE = 0.1
_SAMPLE = 0.2
NEXT = ("ksi chat", "ksi log --tree", "ksi events")


class Counts(msgspec.Struct):
    """What all beats gave; the rate is that of the answers that were not cut off."""

    tokens: int = 0
    timed_tokens: int = 0
    seconds: float = 0.0

    def add(self, told: Told) -> Told:
        self.tokens += len(told.chunks)
        if told.exit_code == 0:
            self.timed_tokens += len(told.chunks)
            self.seconds += told.seconds
        return told


@command()
@click.option("--keep", is_flag=True, help="Keep the demo's home, and its daemon running.")
@click.pass_obj
def demo(invocation: Invocation, keep: bool) -> None:
    """Show the main job on the real model, in a home of its own.

    Every claim is checked against the log; where one does not hold the exit code is 1.
    """
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _exit)
    began, counts = monotonic(), Counts()
    with _home(keep=keep) as home:
        stage = Stage(home, as_json=bool(invocation.json_given))
        stage.note(f"The model is real and small: {SMOLLM2.name}, on this machine. It writes; it is not smart.")
        ModelStore().install()
        stage.run("start")
        first = _stream(stage, counts)
        second = _kill(stage, counts)
        stage.claim(first.text != second.text, "different prompts give different texts")
        conversation, then, turns = _agents(stage, counts)
        _log(stage, conversation, then)
        _replay(stage, turns[-1])
        _blame(stage, conversation)
        _whatif(stage, turns[0])
        _budget(stage, counts)
        health = stage.look("system:health")
        _end(stage, counts, events=health["head"], seconds=monotonic() - began)
        if keep:
            stage.note(f"its home is {home}")


def _exit(signum: int, _: object) -> NoReturn:
    """As an exception, so that the daemon of the demo is stopped on the way out."""
    sys.exit(128 + signum)


@contextmanager
def _home(*, keep: bool) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="ksi-demo-"))
    try:
        yield home
    finally:
        if not keep:
            Stage(home, as_json=True).ask("stop", "--quiet")
            shutil.rmtree(home)


# ── 1. STREAM ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _stream(stage: Stage, counts: Counts) -> Told:
    stage.beat(1, "STREAM", "tokens as they come; each is in the log before it is seen")
    told = counts.add(stage.stream("complete", PROMPT, "--max-tokens", "24"))
    stage.claim(told.end["provider"] == PROVIDER, f"the provider is {PROVIDER}, no server and no key")
    stage.claim(told.end["model_sha256"] == SMOLLM2.sha256, f"the model's sha256 is {SMOLLM2.sha256[:16]}…")
    stage.claim(
        told.chunks == _recorded(stage, told.stream), f"the log holds these {len(told.chunks)} tokens, in order"
    )
    return told


# ── 2. KILL ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _kill(stage: Stage, counts: Counts) -> Told:
    stage.beat(2, "KILL", "kill -9 of the daemon in the middle of an answer")
    told = counts.add(
        stage.stream(
            "complete", LONG_PROMPT, "--max-tokens", "32", after=SEEN_BEFORE_THE_KILL, act=lambda _: _kill_daemon(stage)
        )
    )
    stage.claim(told.error == "interrupted", "whoever waited for the answer was told so")
    (verified,) = stage.run("verify")
    stage.claim(verified["problems"] == [], f"the log is whole up to @{verified['head']}")
    run = stage.run("runs", "-n", "1")[-1]
    stage.claim(run["status"] == "interrupted", f"run {run['run'][:18]} is interrupted, its tokens are kept")
    rest = counts.add(stage.stream("resume", "last"))
    seen = told.chunks + rest.chunks
    recorded = _recorded(stage, told.stream) + _recorded(stage, rest.stream)
    lost, doubled = len(set(seen) - set(recorded)), len(seen) - len(set(seen))
    stage.claim(lost == doubled == 0, f"lost {lost}, doubled {doubled} of {len(seen)} tokens, counted from the log")
    whole = "".join(text for _, text in recorded)
    stage.claim(rest.end["text"] == whole, "the whole answer is what was there, and its continuation")
    return rest


def _kill_daemon(stage: Stage) -> None:
    health = stage.look("system:health")
    os.kill(health["pid"], signal.SIGKILL)
    stage.typed(f"kill -9 {health['pid']}")
    stage.run("start")


# ── 3. AGENTS ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _agents(stage: Stage, counts: Counts) -> tuple[str, int, tuple[Told, Told]]:
    """The first agent's conversation, the position after its first turn, and both turns of the second agent."""
    stage.beat(3, "AGENTS", "two agents write a story by turns; one turn is cancelled")
    for name in AGENTS:
        stage.run("send", "agent:spawn", f"agent={name}", f"system={SYSTEM}")
    first = _turn(stage, counts, AGENTS[0], OPENING)
    then = int(stage.look("system:health")["head"])
    second = _turn(stage, counts, AGENTS[1], first.text)
    third = _cancelled_turn(stage, counts, AGENTS[0], second.text)
    fourth = _turn(stage, counts, AGENTS[1], third.text)
    return f"conversation/{first.end['conversation']}", then, (second, fourth)


def _turn(stage: Stage, counts: Counts, agent: str, text: str, *, tokens: int = TURN_TOKENS) -> Told:
    told = counts.add(stage.stream(*_message(agent, text, tokens)))
    stage.claim(told.exit_code == 0 and told.text == told.end["text"], f"{agent} said {len(told.chunks)} tokens")
    return told


def _cancelled_turn(stage: Stage, counts: Counts, agent: str, text: str) -> Told:
    def interrupt(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGINT)

    told = counts.add(stage.stream(*_message(agent, text, 200), after=SEEN_BEFORE_THE_CANCEL, act=interrupt))
    stage.claim(told.exit_code == 130 and told.end["finish_reason"] == "cancelled", f"{agent} was cancelled by Ctrl-C")
    stage.claim(_is_soon_idle(stage), f"the model's process is idle within {IDLE_WITHIN:g} s")
    kept = stage.look("completion:status", run="last")["completions"][0]
    usage = kept["usage"]["output_tokens"]
    is_kept = kept["text"].startswith(told.text) and usage > 0
    stage.claim(is_kept, f"the text so far is kept, and its usage: {usage} tokens")
    return told


def _message(agent: str, text: str, max_tokens: int) -> tuple[str, ...]:
    return ("send", "agent:send_message", f"agent={agent}", f"text={text}", f"max_tokens:={max_tokens}", "--stream")


def _is_soon_idle(stage: Stage) -> bool:
    pid = _model_pid(stage)
    until = monotonic() + IDLE_WITHIN
    while monotonic() < until:
        if _busy_share(pid) < IDLE_SHARE:
            return True
    return False


def _model_pid(stage: Stage) -> int:
    """Of the model's process, which runs."""
    return next(int(model["pid"]) for model in stage.look("model:list")["models"] if model["provider"] == PROVIDER)


def _busy_share(pid: int) -> float:
    """The share of one processor that a process takes, over a moment."""
    before, began = _cpu_seconds(pid), monotonic()
    sleep(_SAMPLE)
    return (_cpu_seconds(pid) - before) / (monotonic() - began)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ── 4. LOG ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _log(stage: Stage, conversation: str, then: int) -> None:
    stage.beat(4, "LOG", "the causes of all that, and a conversation as it was")
    stage.show("log", "--tree")
    (was,) = stage.run("show", conversation, "--at", f"@{then}")
    now = stage.look("entity:show", entity=conversation)
    messages, more = (len(shown["state"]["messages"]) for shown in (was, now))
    stage.claim(0 < messages < more, f"{conversation} had {messages} messages at @{then}; now it has {more}")


# ── 5. REPLAY ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _replay(stage: Stage, turn: Told) -> None:
    stage.beat(5, "REPLAY", "a turn once more, out of the log; the model's process is stopped")
    pid = _model_pid(stage)
    stage.run("model", "stop")
    (found,) = stage.run("replay", turn.end["run"])
    stage.claim(
        found["calls"] == 0 and not Path(f"/proc/{pid}").exists(), "the model was called 0 times, and not started"
    )
    said = f"{found['requests']} requests, {found['facts']} facts and {found['chunks']} tokens came out the same"
    stage.claim(found["chunks"] == 2 * len(turn.chunks), said)


# ── 6. BLAME ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _blame(stage: Stage, conversation: str) -> None:
    stage.beat(6, "BLAME", "which event wrote a message, and what was behind it")
    value = "messages[-1].text"
    stage.show("blame", conversation, value)
    found = stage.look("timetravel:blame", entity=conversation, path=value)
    causes = [event["name"] for event in found["chain"] if event["kind"] == "request"]
    stage.claim(causes[0] == "agent:send_message", f"it goes back to {causes[0]}, through {', '.join(causes[1:])}")


# ── 7. WHAT IF ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _whatif(stage: Stage, turn: Told) -> None:
    stage.beat(7, "WHAT IF", "something else was said: only what depended on it runs again, on a branch")
    *steps, answer = stage.run("whatif", turn.end["run"], "--set", "text=Suddenly it began to snow.", "--live")
    told = [step["what"] for step in steps if step["name"] == "agent:send_message"]
    ran, kept = f"{AGENTS[1]}'s two turns ran again", f"{AGENTS[0]}'s, between them, did not"
    stage.claim(told == ["changed", "kept", "rerun"], f"{ran}; {kept}")
    tokens = answer["tokens"]
    stage.claim(tokens["saved"] > 0, f"{tokens['spent']} tokens were spent, {tokens['saved']} saved")
    differ = [compared["entity"] for compared in answer["entities"] if compared["entity"].startswith("conversation/")]
    stage.claim(differ == [f"conversation/{turn.end['conversation']}"], f"of the conversations {differ[0]} differs")


# ── 8. BUDGET ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _budget(stage: Stage, counts: Counts) -> None:
    stage.beat(8, "BUDGET", "a cap for one of two agents: what might go over it is not called")
    stage.run("budget", "set", f"agent:{AGENTS[1]}", "--tokens", "60")
    _turn(stage, counts, AGENTS[0], "And then?", tokens=8)
    told = stage.stream(*_message(AGENTS[1], "And then?", TURN_TOKENS))
    (exceeded,) = stage.look("log:read", pattern="budget:was_exceeded")["events"]
    needed, left = exceeded["data"]["needed"], exceeded["data"]["left"]
    said = f"budget_exceeded: {AGENTS[1]}'s next turn reserves {needed}, {left} left. Model not called."
    stage.claim(told.error == "budget_exceeded" and not told.chunks, said)


def _recorded(stage: Stage, stream: str) -> list[Chunk]:
    """The tokens of a stream, as the log holds them."""
    chunks = stage.look("log:read", stream=stream, kinds=["chunk"], limit=1000)["events"]
    return [(f"{stream}@{event['version']}", event["data"]["text"]) for event in chunks]


def _end(stage: Stage, counts: Counts, *, events: int, seconds: float) -> None:
    rate = counts.timed_tokens / counts.seconds
    found = {"events": events, "tokens": counts.tokens, "tokens_per_s": round(rate, 1), "seconds": round(seconds, 1)}
    text = f"demo ok: {events} events, {counts.tokens} tokens, {rate:.0f} tokens/s, {seconds:.1f} s"
    stage.ended({"demo": "ok"} | found, text)
    stage.note("Try next:")
    for line in NEXT:
        stage.typed(line)
