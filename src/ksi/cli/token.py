"""``ksi token``: tokens of this home. They are made and revoked in its files, whether a daemon runs or not."""

from __future__ import annotations

import os

import click

from ksi.cli.arguments import DURATION
from ksi.cli.invocation import Invocation, family
from ksi.cli.output import Record, show_records, show_table, show_value, time_of
from ksi.core.clock import utc
from ksi.core.config import load
from ksi.plugins.profiles import Policy
from ksi.transport.tokens import USER, Token, TokenStore

PRINCIPAL_MAX = 256


@family(invoke_without_command=True)
@click.pass_context
def token(context: click.Context) -> None:
    """Print your own token, for what does not come over the Unix socket: curl --oauth2-bearer $(ksi token)."""
    if context.invoked_subcommand is None:
        invocation = context.ensure_object(Invocation)
        _show(invocation, _store(invocation).default(invocation.home.token_file, _user()))


@token.command()
@click.option("--principal", metavar="NAME", help="Who has it, as agent:ada. Default: you.")
@click.option("--profile", metavar="NAME", help="What it may do, as restricted. Default: as the configuration says.")
@click.option("--ttl", type=DURATION, help="It counts so long, as 30m or 1h. Default: until it is revoked.")
@click.pass_obj
def create(invocation: Invocation, principal: str | None, profile: str | None, ttl: float | None) -> None:
    """Make a token, and print it: it is shown only here."""
    principal = _user() if principal is None else _named(principal)
    if profile is not None:
        _refuse_without_effect(invocation, principal, profile)
    _show(invocation, _store(invocation).create(principal, profile, ttl))


@token.command("list")
@click.pass_obj
def list_tokens(invocation: Invocation) -> None:
    """List the tokens that count. The tokens themselves are kept nowhere."""
    show_table(
        invocation,
        [_record(each) for each in _store(invocation).list()],
        ("ID", "PRINCIPAL", "PROFILE", "MADE", "EXPIRES"),
        _cells,
    )


@token.command()
@click.argument("token_id", metavar="ID", required=False)
@click.option("--grace", type=DURATION, help="The old one counts so long, as 10m. Default: no more.")
@click.pass_obj
def rotate(invocation: Invocation, token_id: str | None, grace: float | None) -> None:
    """Make a token in place of another, with the same rights for as long, and print it. Without ID: your own."""
    store = _store(invocation)
    if token_id is None:
        _show(invocation, store.rotate_default(invocation.home.token_file, _user(), grace or 0.0))
    else:
        _show(invocation, store.rotate(token_id, grace or 0.0))


@token.command()
@click.argument("token_id", metavar="ID")
@click.pass_obj
def revoke(invocation: Invocation, token_id: str) -> None:
    """Let a token count no more: who came in with it has to leave."""
    revoked = _record(_store(invocation).revoke(token_id))
    show_records(invocation, [revoked], lambda record: f"revoked {record['id']} of {record['principal']}")


def _store(invocation: Invocation) -> TokenStore:
    invocation.home.make()
    return TokenStore(invocation.home.tokens)


def _user() -> str:
    return f"{USER}{os.getuid()}"


def _named(principal: str) -> str:
    """An empty one is a variable of a script that was not set, and would be the owner."""
    if not principal.strip() or not principal.isprintable() or len(principal) > PRINCIPAL_MAX:
        raise click.UsageError(f"--principal is a name of at most {PRINCIPAL_MAX} letters, as agent:ada")
    return principal


def _refuse_without_effect(invocation: Invocation, principal: str, profile: str) -> None:
    """A profile that does not exist allows nothing; one that the configuration overrules would only be said here."""
    permission = load(invocation.home, os.environ).permission
    known = Policy(permission).profiles
    if profile not in known:
        raise click.UsageError(f"no profile {profile!r}: choose of {', '.join(sorted(known))}")
    configured = permission.principals.get(principal)
    if configured not in (None, profile):
        raise click.UsageError(f"permission.principals gives {principal} the profile {configured!r}")


def _show(invocation: Invocation, made: str) -> None:
    """As text in a pipe too: that is where it goes."""
    if invocation.json_given:
        show_value(invocation, {"token": made})
    else:
        click.echo(made)


def _record(kept: Token) -> Record:
    return {
        "id": kept.id,
        "principal": kept.principal,
        "profile": kept.profile,
        "created_at": _moment(kept.created_us),
        "expires_at": None if kept.expires_us is None else _moment(kept.expires_us),
    }


def _moment(time_us: int) -> str:
    return utc(time_us).isoformat()


def _cells(record: Record) -> tuple[str, ...]:
    return (
        record["id"],
        record["principal"],
        record["profile"] or "",
        time_of(record["created_at"]),
        time_of(record["expires_at"]),
    )
