"""The `understudy` command: a thin layer over the public API.

Sub-commands live beside what they run and are imported only when called, so that `--help` needs
neither torch nor dask. Exit codes: 0 done, 1 a check failed, 2 something the user can mend, 130
stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

import importlib
import os
import sys

import click

from understudy import __version__
from understudy.errors import UnderstudyError, stoppable, unknown
from understudy.leaving import leave

# name -> (module:attribute of a click command, one line of help)
COMMANDS = {
    "demo": ("understudy.demo:command", "Run the whole mission on the built-in toy collections."),
    "data": ("understudy.datasets.cli:group", "List, make and inspect datasets."),
    "teachers": ("understudy.teachers.cli:group", "List teachers, get and check their weights."),
    "extract": (
        "understudy.extract.cli:command",
        "Run teachers once over a dataset, into a cache.",
    ),
    "cache": ("understudy.cache.cli:group", "List, verify, copy, export and tidy cached stores."),
    "train": ("understudy.train.cli:command", "Train a student, with or without a teacher."),
    "study": ("understudy.study.cli:command", "Run a grid of trainings from one file."),
    "reproduce": (
        "understudy.reproduce.cli:command",
        "Fill the paper's tables with what is measured here.",
    ),
    "evaluate": ("understudy.evaluate.cli:group", "Score, transfer, compare and report."),
    "export": ("understudy.export.cli:command", "Make a trained student ready for use elsewhere."),
    "doctor": ("understudy.doctor:command", "Check what this machine offers and lacks."),
    "predict": ("understudy.predict.cli:command", "Label audio files with a trained student."),
}


class LazyGroup(click.Group):
    """Group whose sub-commands are imported at their first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(unknown("command", args[0], COMMANDS), ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with stoppable("stopped"):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="understudy")
def cli() -> None:
    """Teach small audio models with the cached embeddings of large ones.

    \b
    understudy extract   recordings -> teacher embeddings, once, into a cache
    understudy train     audio + cached embeddings -> a student
    understudy evaluate  student -> numbers and a report
    """


def main() -> None:
    """Entry point: turns errors a user can mend into one line and exit code 2."""
    if sys.stderr is None:  # closed: the next file opened would get what libraries complain
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        cli(prog_name="understudy")
    except UnderstudyError as error:
        click.echo(f"error: {error}", err=True)
        leave(2)
    except SystemExit as end:  # click's own end
        leave(end.code)
