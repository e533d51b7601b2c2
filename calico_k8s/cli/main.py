"""``calico-k8s``: finds the command, runs it, and turns errors into one sentence and an exit code.

Exit codes: 0 fine; 1 the answer is no; 2 wrong use or bad input; 3 something needed is missing or
away.  Commands are imported when they are called: a command pays for what it uses.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from calico_k8s.cli.kube import KUBECTL_PLUGIN
from calico_k8s.cli.streams import prepare_streams
from calico_k8s.errors import CalicoError, UnavailableError

COMMANDS = {
    "affected": "policy",
    "can": "policy",
    "certificate": "certificates",
    "completion": "completion",
    "controller": "controller",
    "demo": "lab",
    "denials": "denials",
    "explain": "policy",
    "felix": "node",
    "fmt": "text",
    "get": "stored",
    "lab": "lab",
    "lint": "text",
    "matrix": "policy",
    "signer": "certificates",
    "staged": "staged",
    "standalone": "standalone",
    "status": "status",
}
"""Each command's module below this package; the command is the object of its name in it."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All commands, sorted."""
        return sorted(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"calico_k8s.cli.{COMMANDS[cmd_name]}")
        command = getattr(module, f"{cmd_name}_command")
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.{cmd_name}_command is not a command")
        _mark_examples(command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command; a reader of its output that has gone is no error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # What `| head` wanted is written.  Python would complain about the unwritten rest when
            # it closes standard output, and click would make it an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="calico_k8s", prog_name="calico-k8s")
def program() -> None:
    r"""Say in one line who may talk to a Kubernetes pod, and have every node enforce it.

    \b
    calico-k8s demo                                   the story, on this machine, in 20 seconds
    calico-k8s lint manifests/                        what is wrong with annotations and flags
    calico-k8s can manifests/ --from web/a --to db/b --port 5432
    calico-k8s lab matrix manifests/                  the same question, asked with real packets
    """


def _mark_examples(command: click.Command) -> None:
    r"""Turn ``\b`` in help, two characters in a raw docstring, into click's mark: do not rewrap."""
    if command.help is not None:
        command.help = command.help.replace("\\b\n", "\b\n")
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _mark_examples(below)


_mark_examples(program)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit with its code."""
    prepare_streams()
    try:
        code = program.main(args=arguments, prog_name=_program_name(), standalone_mode=False)
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except CalicoError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except OSError as error:
        # What a command opens itself has its own sentence; left is its output (a disk that is
        # full), which is no answer: 1 would say "denied".
        about = f"{error.filename}: " if error.filename else "the output cannot be written: "
        click.echo(f"error: {about}{error.strerror or error}", err=True)
        code = UnavailableError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _program_name() -> str:
    called = Path(sys.argv[0]).name
    return KUBECTL_PLUGIN if called == "kubectl-calico_k8s" else "calico-k8s"
