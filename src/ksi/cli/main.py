"""The command ``ksi``: the table of its commands, each loaded when it is used, and the door where errors end.

Exit codes: 0 ok, 1 event error, 2 usage, 3 daemon unreachable, 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

import click

from ksi import __version__
from ksi.cli.failure import EXIT_EVENT_ERROR, EXIT_INTERRUPTED, report
from ksi.cli.invocation import Invocation, shared_options
from ksi.core.errors import KSIError

# Summaries stand here, so that `ksi --help` loads no command.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "The daemon": {
        "start": ("lifecycle", "Start the daemon in the background."),
        "stop": ("lifecycle", "Stop the daemon; what is under way may finish."),
        "restart": ("lifecycle", "Stop the daemon and start it again."),
        "status": ("lifecycle", "Say how the daemon is."),
        "serve": ("serve", "Run the daemon in the foreground."),
    },
    "Ask": {
        "send": ("send", "Send any event and print its answer."),
        "complete": ("complete", "Complete a prompt, token by token."),
        "resume": ("complete", "Go on with an interrupted completion."),
        "chat": ("chat", "Talk with a model, or with an agent."),
        "message": ("message", "Publish and follow topics; leave messages and take them."),
        "record": ("record", "Run a script; record what it asks of models."),
        "mcp": ("mcp", "Serve the Model Context Protocol."),
    },
    "Look": {
        "log": ("log", "Read the log, oldest first."),
        "runs": ("runs", "List what ran, and how it ended."),
        "show": ("show", "Show an entity, an event or a run."),
        "events": ("events", "List what the daemon can do."),
        "describe": ("describe", "Describe the events as OpenAPI, AsyncAPI, TypeScript or Python."),
        "blame": ("past", "Find the event that wrote a value, and its causes."),
        "bisect": ("past", "Find the event of a run that made something true."),
        "replay": ("past", "Run a run's handlers again, on what is recorded."),
        "projections": ("projections", "List the read models, and how they stand."),
        "approvals": ("approvals", "List requests that wait for somebody's word."),
        "approve": ("approvals", "Let a request run that waits."),
        "deny": ("approvals", "End a request that waits."),
        "conversation": ("conversation", "List, show, search, export and fork conversations."),
        "agent": ("agent", "Spawn, list, pause, restart and end agents."),
        "composition": ("composition", "Agents and prompts that are described in files."),
        "permission": ("approvals", "Show, check, grant and revoke rights."),
        "top": ("top", "Watch what happens, as it happens."),
        "schedule": ("schedule", "Ask for events by the clock."),
        "budget": ("budget", "Cap tokens and money."),
        "whatif": ("whatif", "Change a request and run again what depended on it."),
        "fork": ("branch", "Cut a branch off the log."),
        "branches": ("branch", "List the branches."),
        "branch": ("branch", "Keep a branch's read models in tables."),
        "diff": ("branch", "Show how two branches differ."),
        "discard": ("branch", "Read and write a branch no more."),
        "verify": ("verify", "Check that the log is what was written."),
        "backup": ("store", "Copy the log into a file, while all goes on."),
        "erase": ("store", "Erase what was recorded for somebody."),
        "blob": ("blob", "Keep large payloads beside the log."),
    },
    "Set up": {
        "plugin": ("plugin", "List, load, unload and reload plugins."),
        "store": ("store", "Archive what is old; restore a backup; go on with a damaged log."),
        "projection": ("projections", "Rebuild a read model; see what it could not take."),
        "providers": ("providers", "List who can be asked for answers, and how busy they are."),
        "model": ("model", "Install, list and stop models."),
        "token": ("token", "Print your token; make, list and revoke others."),
        "config": ("config", "Show the configuration."),
        "doctor": ("doctor", "Check this machine and this home."),
        "completion": ("shell", "Print the script of the shell's completion."),
    },
    "Try": {
        "demo": ("demo", "Show the main job on the real model."),
        "bench": ("bench", "Measure the speed, beside its floors and peers."),
    },
}
_COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Cli(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = getattr(_loaded(_COMMANDS[cmd_name][0]), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (_, summary) in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem  # only a shell that completes needs it

        return [
            CompletionItem(name, help=summary)
            for name, (_, summary) in _COMMANDS.items()
            if name.startswith(incomplete)
        ]


def _loaded(module: str) -> ModuleType:
    try:
        return import_module(f"ksi.cli.{module}")
    finally:
        if not gc.isenabled():  # as the program began: what was imported stays, and is not looked at again at the exit
            gc.freeze()
            gc.enable()


@click.command(cls=Cli, params=shared_options(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ksi")
def cli() -> None:
    """KSI: an agent runtime that one can kill, rewind and rerun.

    The options may also stand behind a command.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``ksi`` with ``arguments``, default those of the process, and exit."""
    invocation = Invocation()
    try:
        code = cli.main(arguments, prog_name="ksi", standalone_mode=False, obj=invocation)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except KSIError as error:
        sys.exit(report(error, as_json=bool(invocation.json_given)))
    except OSError as error:
        _forget_output()
        print(f"ksi: {error}", file=sys.stderr)
        sys.exit(EXIT_EVENT_ERROR)
    sys.exit(code if isinstance(code, int) else 0)


def _forget_output() -> None:
    """Python writes what is left of stdout at its end: where that is what failed, it would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
