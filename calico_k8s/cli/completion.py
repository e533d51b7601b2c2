"""``completion``: the script that makes a shell complete this program's words."""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    Example:
      calico-k8s completion bash > /etc/bash_completion.d/calico-k8s
    """
    make = get_completion_class(shell)
    if make is None:
        raise click.UsageError(f"no completion is known for '{shell}'")
    root = ctx.find_root()
    click.echo(make(root.command, {}, "calico-k8s", "_CALICO_K8S_COMPLETE").source())
