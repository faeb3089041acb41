"""The commands, as processes that talk with a real daemon."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from tests.cli.processes import Cli, on_a_terminal


def test_an_answer_is_a_line_of_json_where_it_is_piped(ksi: Cli) -> None:
    assert ksi("send", "state:set", "key=line", 'value:={"x":1}').stdout.count("\n") == 1
    (answer,) = ksi.records("send", "state:get", "key=line")
    assert answer["value"] == {"x": 1}


def test_an_error_of_the_event_ends_with_1_and_says_code_and_remedy(ksi: Cli) -> None:
    done = ksi("send", "state:gte", "key=a")
    assert (done.returncode, done.stdout) == (1, "")
    assert "state:get" in done.stderr
    assert "[unknown_event]" in done.stderr
    assert "No plugin declares this event;" in done.stderr


def test_the_same_event_id_is_done_once(ksi: Cli) -> None:
    again = ("send", "state:set", "key=once", "value=1", "--event-id", "01992f3a-7c2e-7aaa-8aaa-000000000001")
    assert ksi.records(*again) == ksi.records(*again)
    assert ksi("send", "state:set", "key=once", "value=2", *again[-2:]).returncode == 1


def test_a_stream_is_its_chunks_and_its_end_value(ksi: Cli) -> None:
    assert ksi("send", "countdown:run", "start:=3").stdout == '3\n2\n1\n"lift-off"\n'
    assert ksi("send", "countdown:run", "start:=3", "--end").stdout == '"lift-off"\n'


def test_with_stream_each_chunk_has_its_address(ksi: Cli) -> None:
    *chunks, end = ksi.records("send", "countdown:run", "start:=2", "--stream")
    assert [chunk["data"] for chunk in chunks] == [2, 1]
    addresses = [str(chunk["at"]).partition("@") for chunk in chunks]
    assert addresses[0][0] == addresses[1][0]
    assert int(addresses[1][2]) == int(addresses[0][2]) + 1
    assert end == {"end": True, "data": "lift-off"}


def test_a_detached_request_runs_on_and_is_named(ksi: Cli) -> None:
    (receipt,) = ksi.records("send", "state:set", "key=detached", "value=1", "--detach")
    (event,) = ksi.records("log", "--run", str(receipt["correlation_id"]))
    assert event["name"] == "state:value_was_set"


def test_ctrl_c_stops_a_stream_shows_what_there_was_and_ends_with_130(ksi: Cli) -> None:
    with ksi.open("send", "countdown:run", "start:=1", "waits:=true") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "1\n"
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
    assert (running.returncode, rest) == (130, '"held"\n')


def test_the_log_comes_oldest_first_with_positions(ksi: Cli) -> None:
    for value in ("1", "2", "3"):
        ksi.records("send", "state:set", "key=order", f"value={value}", "namespace=order")
    found = ksi.records("log", "state:", "--stream", "state/order")
    assert [event["data"]["value"] for event in found] == ["1", "2", "3"]
    positions = [int(str(event["position"])) for event in found]
    assert positions == sorted(positions)
    assert ksi.records("log", "--stream", "state/order", "-n", "2") == found[1:]
    assert ksi.records("log", "--stream", "state/order", "--after", f"@{positions[0]}", "-n", "1") == found[1:2]
    assert ksi.records("log", "--stream", "state/order", "--since", "1h") == found
    assert f"@{positions[0]}" in ksi.text("log", "--stream", "state/order")


def test_more_than_a_page_of_the_log_is_read_whole(ksi: Cli) -> None:
    sent = 700
    ksi.records("send", "countdown:run", f"start:={sent}", "--end")
    chunks = [event for event in ksi.records("log", "--kind", "chunk", "-n", "2000") if event["data"] is not None]
    assert len(chunks) >= sent
    after = ksi.records("log", "--kind", "chunk", "--after", "@0")
    assert after == chunks


def test_a_followed_log_shows_what_comes(ksi: Cli) -> None:
    with ksi.open("log", "-f", "--json", "--stream", "state/followed", "-n", "1") as following:
        assert following.stdout is not None
        ksi.records("send", "state:set", "key=a", "value=1", "namespace=followed")
        line = following.stdout.readline()
        following.send_signal(signal.SIGINT)
        rest = following.stdout.read()
    assert '"state/followed"' in line
    assert (following.returncode, rest) == (130, "")


def test_runs_are_listed_oldest_first_and_shown_as_trees(ksi: Cli) -> None:
    ksi.records("send", "state:set", "key=run", "value=1")
    *_, before, last = ksi.records("runs")
    assert int(str(before["position"])) < int(str(last["position"]))
    assert (last["name"], last["status"]) == ("state:set", "ok")
    tree = ksi.text("log", "--tree", "-n", "1").splitlines()
    assert str(last["run"]) in tree[0]
    assert tree[1].startswith("state:set  ok")
    assert tree[2].startswith("└─ state:value_was_set  @")
    assert ksi.text("show", "last").splitlines()[1:] == tree[1:]


def test_an_entity_is_shown_as_it_is_and_as_it_was(ksi: Cli) -> None:
    for value in ("old", "new"):
        ksi.records("send", "state:set", "key=a", f"value={value}", "namespace=shown")
    first, _ = ksi.records("log", "--stream", "state/shown")
    (now,) = ksi.records("show", "state/shown")
    (then,) = ksi.records("show", "state/shown", "--at", f"@{first['position']}")
    assert (now["state"], then["state"]) == ({"a": "new"}, {"a": "old"})
    assert ksi.records("show", f"@{first['position']}") == [first]


def test_events_are_listed_and_described_with_an_example_to_type(ksi: Cli) -> None:
    assert {event["name"] for event in ksi.records("events", "state:")} >= {"state:set", "state:get"}
    described = ksi.text("events", "state:set")
    assert "required  any JSON" in described
    assert "ksi send state:set key=" in described
    assert ksi("events", "state:gte").returncode == 1


def test_a_shell_completes_events_and_their_fields_from_the_kept_list(ksi: Cli) -> None:
    def completed(*words: str) -> list[str]:
        line = ["ksi", "--home", str(ksi.home), *words]
        environ = os.environ | {"_KSI_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(line)}
        environ["COMP_CWORD"] = str(len(line) - 1)
        command = [sys.executable, "-m", "ksi.cli"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
        return [word.partition(",")[2] for word in done.stdout.splitlines()]

    assert "state:get" in completed("send", "state:")
    assert completed("send", "countdown:run", "st") == ["start="]
    assert completed("plu") == ["plugin"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ksi send state:g", ["get"]),
        ("ksi send countdown:", ["run"]),
        ("ksi send countd", ["countdown:run"]),
        ("ksi send countdown:run ", ["start=", "waits="]),
        ("ksi plu", ["plugin"]),
    ],
)
def test_bash_completes_behind_the_colon(ksi: Cli, tmp_path: Path, line: str, offered: list[str]) -> None:
    program = tmp_path / "ksi"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ksi.cli "$@"\n')
    program.chmod(0o755)
    code = 'eval "$("$1" completion bash)"; COMP_LINE=$2 COMP_POINT=${#2}; _ksi_completion "$1"; echo "${COMPREPLY[*]}"'
    done = subprocess.run(
        ["bash", "-c", code, "bash", str(program), line],
        env=os.environ | {"KSI_HOME": str(ksi.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == offered


def test_a_plugin_is_unloaded_and_loaded_again(ksi: Cli) -> None:
    assert "countdown" in ksi.text("plugin", "list")
    assert ksi("plugin", "unload", "countdown").returncode == 0
    assert ksi("send", "countdown:run", "start:=1").returncode == 1
    assert ksi("plugin", "load", str(ksi.home.parent / "countdown.py")).returncode == 0
    assert ksi("send", "countdown:run", "start:=1", "--end").stdout == '"lift-off"\n'
    assert ksi("plugin", "reload", "countdown").returncode == 0


def test_no_name_is_no_plugin(ksi: Cli) -> None:
    done = ksi("plugin", "load", "")
    assert (done.returncode, "[validation_error]" in done.stderr) == (1, True)


def test_without_models_it_is_said_how_to_get_one(nowhere: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSI_MODELS", str(nowhere.home / "models"))
    done = nowhere("model", "list", "--start")
    assert (done.returncode, done.stdout) == (0, "")
    assert "ksi model install" in done.stderr


def test_a_whole_log_is_verified(ksi: Cli) -> None:
    (found,) = ksi.records("verify")
    assert found["problems"] == []
    assert "the log is whole" in ksi.text("verify")


def test_a_log_is_verified_without_a_daemon(nowhere: Cli) -> None:
    absent = nowhere("verify")
    assert (absent.returncode, "[not_found]" in absent.stderr) == (1, True)
    nowhere.records("send", "state:set", "key=a", "value=1", "--start")
    nowhere("stop")
    assert re.fullmatch(r"the log is whole up to @\d+\n", nowhere.text("verify"))
    log = apsw.Connection(str(nowhere.home / "data" / "events.db"))
    log.execute("DELETE FROM log WHERE pos = (SELECT max(pos) FROM log)")
    log.close()
    damaged = nowhere("verify", "--no-json")
    assert (damaged.returncode, damaged.stderr) == (1, "")
    assert re.match(r"the log is damaged after @\d+: ", damaged.stdout)


def test_status_counts_requests_and_what_became_of_them(ksi: Cli) -> None:
    (before,) = ksi.records("status")
    ksi("send", "log:get")
    (after,) = ksi.records("status")
    assert after["requests"]["calls"] > before["requests"]["calls"]
    failed = before["requests"]["errors"].get("validation_error", 0) + 1
    assert after["requests"]["errors"]["validation_error"] == failed
    assert f", {failed} validation_error" in ksi.text("status")


def test_the_daemon_starts_once_and_stops_once(nowhere: Cli) -> None:
    first = nowhere.records("start")[0]
    again = nowhere.records("start")[0]
    assert first["pid"] == again["pid"]
    assert nowhere.records("status")[0]["pid"] == first["pid"]
    assert nowhere("start", "--set", "log.level=debug").returncode == 2
    restarted = nowhere.records("restart", "--set", "store.durability=normal")[0]
    assert restarted["pid"] != first["pid"]
    assert nowhere.text("status").startswith("healthy")
    assert nowhere.records("stop") == [{"stopped": restarted["pid"]}]
    assert nowhere.records("stop") == [{"stopped": None}]
    assert nowhere("status").returncode == 3


def test_a_script_starts_the_daemon_only_where_it_asks_for_it(nowhere: Cli) -> None:
    assert nowhere("send", "system:health").returncode == 3
    started = nowhere("send", "system:health", "--start")
    assert started.returncode == 0
    assert "starting the daemon" in started.stderr
    assert b"system:health" in (nowhere.home / "events.json").read_bytes(), "for the shell's completion"


def test_on_a_terminal_a_command_starts_the_daemon_and_says_so(nowhere: Cli) -> None:
    shown, said = on_a_terminal(*nowhere.command("send", "system:health"))
    assert "starting the daemon" in said
    assert '"status": "healthy"' in shown


def test_a_chat_takes_a_turn_from_each_line_and_ends_where_an_answer_fails(ksi: Cli) -> None:
    done = ksi("chat", "--model", "no-such-model", stdin="hello\n")
    assert done.returncode == 1
    assert "no-such-model" in done.stderr


def test_providers_are_listed_and_one_that_is_named_is_asked(ksi: Cli) -> None:
    assert {"local", "openai", "anthropic", "claude"} <= {shown["name"] for shown in ksi.records("providers")}
    done = ksi("complete", "Hello", "--provider", "nobody")
    assert (done.returncode, "nobody" in done.stderr) == (1, True)


def test_nothing_to_complete_is_a_usage_error(ksi: Cli) -> None:
    assert ksi("complete", "-").returncode == 2


@pytest.mark.parametrize("name", ["state:value_was_set", "nothing:at_all"])
def test_a_pattern_that_matches_nothing_gives_no_lines(ksi: Cli, name: str) -> None:
    assert ksi.records("log", name, "--stream", "state/none") == []


def test_a_message_waits_for_who_takes_it(ksi: Cli) -> None:
    ksi.records("message", "queue", "cli", "text=hello", "--ttl", "60")
    (listed,) = ksi.records("message", "queues")
    assert (listed["queue"], listed["waiting"]) == ("cli", 1)
    (taken,) = ksi.records("message", "take", "cli", "--limit", "5")
    assert [each["data"] for each in taken["messages"]] == [{"text": "hello"}]
    assert taken["waiting"] == 0


def test_a_topic_is_followed_from_its_start(ksi: Cli) -> None:
    ksi.records("message", "publish", "cli", "text=hello")
    with ksi.open("message", "subscribe", "cli", "--after", "start") as following:
        assert following.stdout is not None
        assert '"text":"hello"' in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        following.stdout.read()
    assert following.returncode == 130


def test_an_agent_is_spawned_with_its_tools_and_listed(ksi: Cli) -> None:
    ksi.records("agent", "spawn", "clerk", "--tool", "state:get", "--tool", "state:set", "--max-steps", "3")
    (listed,) = [each for each in ksi.records("agent", "list") if each["agent"] == "clerk"]
    assert (listed["tools"], listed["max_steps"]) == (["state:get", "state:set"], 3)
    assert ksi("agent", "spawn", "thief", "--tool", "state:gte").returncode == 1
    (ended,) = ksi.records("agent", "terminate", "clerk")
    assert ended["status"] == "terminated"


def test_a_conversation_is_shown_searched_exported_and_forked(ksi: Cli) -> None:
    ksi("complete", "A harbour", "--conversation", "quay")
    (listed,) = [each for each in ksi.records("conversation", "list") if each["conversation"] == "quay"]
    assert listed["messages"] == 2
    found = ksi.records("conversation", "search", "HARBOUR")
    assert found[-1]["conversation"] == "quay"
    lines = ksi.records("conversation", "export", "quay")
    assert [line["role"] for line in lines] == ["user", "assistant"]
    assert ksi("conversation", "export", "quay", "--format", "markdown").stdout.startswith("## user\n\nA harbour\n")
    (forked,) = ksi.records("conversation", "fork", "quay", "quay-2")
    assert (forked["messages"], ksi.records("conversation", "show", "quay-2")) == (2, lines)


def test_compositions_of_the_original_are_imported_with_a_word_on_each_field(ksi: Cli, tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "sea.md").write_text("You know the sea.\n")
    inline = "- name: ksi_tools\n  inline: {allowed_tools: [state:get, state:eat]}\n"
    sailor = f"name: sailor\ntype: profile\ncomponents:\n- {{name: sea, source: components/sea.md}}\n{inline}"
    (tmp_path / "profiles" / "sailor.yaml").write_text(sailor)
    (tmp_path / "profiles" / "crew.yaml").write_text("name: crew\ntype: orchestration\n")
    done = ksi("composition", "import", str(tmp_path), "--no-json")
    assert done.returncode == 1
    assert f"{tmp_path}/profiles/sailor.yaml:6: refused components[1].inline.allowed_tools[1]" in done.stdout
    assert f"{tmp_path}/profiles/crew.yaml:2: refused file" in done.stdout
    assert {each["name"]: each["level"] for each in ksi.records("doctor")}["profiles"] == "ok"
    (made,) = ksi.records("composition", "compose", "sailor")
    assert (made["prompt"].strip(), made["tools"]) == ("You know the sea.", ["state:get"])
    again = ksi.records("composition", "import", str(tmp_path / "profiles" / "sailor.yaml"), "--replace", "--dry-run")
    assert [note["verdict"] for note in again].count("refused") == 1
    wrong = Path(ksi.home, "profiles", "wrong.yaml")
    wrong.write_text("prompts: none\n")
    (profiles,) = [each for each in ksi.records("doctor") if each["name"] == "profiles"]
    wrong.unlink()
    assert (profiles["level"], profiles["found"]) == ("warn", f"can not be used: {wrong}:1")
