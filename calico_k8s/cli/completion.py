"""``completion``: the script that makes a shell complete this program's words, also below kubectl."""

import sys
from collections.abc import Iterator, Sequence

import click
from click.shell_completion import ShellComplete, get_completion_class

from calico_k8s.cli.kube import KUBECTL_PLUGIN

COMPLETE_FILES = 0
COMPLETE_NOTHING_ELSE = 4
"""What kubectl's completion is to do besides.  Source: spf13/cobra, ShellCompDirective."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    r"""Print the completion script of a shell.

    Behind `kubectl calico-k8s` kubectl's own completion completes our words too.

    \b
    Examples:
      calico-k8s completion bash > /etc/bash_completion.d/calico-k8s
      . <(calico-k8s completion bash)
    """
    make = get_completion_class(shell)
    if make is None:
        raise click.UsageError(f"no completion is known for '{shell}'")
    root = ctx.find_root()
    click.echo(make(root.command, {}, "calico-k8s", "_CALICO_K8S_COMPLETE").source())


def complete_for_kubectl() -> None:
    """The program ``kubectl_complete-calico_k8s``: words for the last argument, each on a line.

    Source: kubectl, plugin completion (kubernetes/kubectl, pkg/cmd/plugin/plugin_completion.go).
    """
    for line in kubectl_completions(sys.argv[1:]):
        click.echo(line)


def kubectl_completions(words: Sequence[str]) -> Iterator[str]:
    """What the last of the words may become, with what it means; and what kubectl does besides."""
    from calico_k8s.cli.main import program

    *before, unfinished = words or [""]
    completer = ShellComplete(program, {}, KUBECTL_PLUGIN, "")
    found = completer.get_completions(before, unfinished)
    for item in found:
        if item.type == "plain":
            yield f"{item.value}\t{item.help}" if item.help else item.value
    takes_files = any(item.type in ("file", "dir") for item in found)
    yield f":{COMPLETE_FILES if takes_files else COMPLETE_NOTHING_ELSE}"
