"""`pystream completion`."""

import click
from click.shell_completion import get_completion_class

# Those that Click has scripts for, in every version that we take.
SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands, options, stores and topics.

    \b
    Examples:
      eval "$(pystream completion bash)"          in ~/.bashrc
      eval "$(pystream completion zsh)"           in ~/.zshrc, after compinit
      pystream completion fish > ~/.config/fish/completions/pystream.fish
    """
    from pystream.cli import COMPLETE_VARIABLE, PROGRAM

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE).source())
