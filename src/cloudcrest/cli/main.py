"""The `cloudcrest` command: what there is, and how errors end."""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group

from cloudcrest import __version__
from cloudcrest.cli import (
    accelerators,
    budgets,
    chat,
    deployments,
    doctor,
    jobs,
    keys,
    ledger,
    local,
    login,
    models,
    node,
    nodes,
    organizations,
    quotas,
    regions,
    secrets,
    simulate,
    sound,
    usage,
    volumes,
)
from cloudcrest.cli.errors import FAILURE, USAGE, exit_code_of
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import note, show_one
from cloudcrest.kernel.errors import CloudcrestError

_MACHINE = Group("A cloud on this machine", sort_key=1)
_USE = Group("Use a cloud", sort_key=2)
_ACCOUNT = Group("Account", sort_key=3)
_MONEY = Group("Money", sort_key=4)


def version(*, options: Options = DEFAULTS) -> None:
    """Prints the version."""
    if options.format == "table":
        print(__version__)
    else:
        show_one({"version": __version__}, [("version", "version")], options.format)


def build() -> App:
    """Every command. `cloudcrest COMMAND --help` explains each."""
    app = App(
        name="cloudcrest",
        help="An open AI cloud: run it, and use it.",
        help_epilogue="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no cloud could be reached.",
        version=__version__,
        result_action="return_value",
    )
    # `up` hands every flag on, --help too: the flags are those of the process it becomes.
    app.command(local.up, group=_MACHINE, help_flags=[], version_flags=[])
    for shown in (local.down, local.status, local.logs, doctor.doctor, version):
        app.command(shown, group=_MACHINE)
    for used in (chat.chat, sound.speak, sound.transcribe):
        app.command(used, group=_USE)
    for group, commands in (
        (_MACHINE, (node.app,)),
        (
            _USE,
            (
                models.app,
                deployments.app,
                jobs.app,
                volumes.app,
                secrets.app,
                regions.app,
                nodes.app,
                accelerators.app,
                quotas.app,
            ),
        ),
        (_ACCOUNT, (organizations.orgs, organizations.projects, organizations.members, keys.app)),
        (_MONEY, (ledger.app, ledger.rate_cards, budgets.app)),
    ):
        for command in commands:
            command.group = (group,)
            app.command(command)
    for account in (login.login, login.logout, login.register):
        app.command(account, group=_ACCOUNT)
    app.command(usage.usage, group=_MONEY)
    simulate.app.group = (_MACHINE,)
    app.command(simulate.app)
    return app


def run(tokens: Sequence[str]) -> int:
    """Runs one command line; returns its exit code."""
    try:
        build()(list(tokens), exit_on_error=False)
    except CycloptsError:
        return USAGE  # printed already
    except CloudcrestError as error:
        note(f"cloudcrest: {error.message}")
        if error.hint:
            note(f"  → {error.hint}")
        return exit_code_of(error)
    except KeyboardInterrupt:
        return 128 + 2
    except BrokenPipeError:
        sys.stderr.close()
        return FAILURE
    except OSError as error:
        # Of this machine: a full disk, a file that is not ours, a folder that is gone.
        note(f"cloudcrest: {error.filename or 'this machine'}: {error.strerror or error}")
        return FAILURE
    return 0


def main() -> None:
    """The entry point of the `cloudcrest` script."""
    sys.exit(run(sys.argv[1:]))
