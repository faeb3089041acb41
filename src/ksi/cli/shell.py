"""``ksi completion``: the script by which a shell completes commands, events and their fields."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ksi.cli.invocation import command

SHELLS = ("bash", "zsh", "fish")
# Instead of click's: that takes bash's words, which end at each colon, as in names of events.
BASH = r"""_ksi_completion() {
    local line=${COMP_LINE:0:COMP_POINT} words type value
    read -ra words <<< "$line"
    local number=$(( ${#words[@]} - 1 ))
    [[ $line == *[[:blank:]] ]] && number=$(( number + 1 ))
    local word=${words[number]}
    # What bash puts a completion behind.
    local kept=${word%"${word##*:}"}
    [[ $COMP_WORDBREAKS == *:* ]] || kept=
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$kept"}") ;;
        esac
    done < <(COMP_WORDS=$line COMP_CWORD=$number _KSI_COMPLETE=bash_complete "$1")
}
complete -o nosort -F _ksi_completion ksi"""


@command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script of the shell's completion; for bash: eval "$(ksi completion bash)".

    Names of events come from the list that `ksi start` and `ksi events` keep in the home.
    """
    if shell == "bash":
        click.echo(BASH)
        return
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells that the argument offers"
    root = context.find_root()
    click.echo(kind(root.command, {}, "ksi", "_KSI_COMPLETE").source())
