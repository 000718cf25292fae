"""The command with all its subcommands, and what becomes of whatever goes wrong in them."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from workers.cli.desk import Desk
from workers.cli.leaving import keep_exit_code
from workers.shadow import PACKAGES, describe_shadowing

#: What the commands need beside the bare package; of those that are not named, some need the store.
EXTRAS = {"worker": "server,worker", "executor": "server,worker,embedded", "demo": "server,worker,embedded"}
REMOTE = "Without a database, add --control-plane https://countermand.example --token-file plane.token"
#: Those that do without the store where they are told of a control plane; of `planes`, `check`.
REACHING_OUT = {"worker", "executor", "planes"}
INSTEAD_OF_A_STORE = ", or the control plane that has the jobs: --control-plane or COUNTERMAND_CONTROL_PLANE"
_REFUSED = 10  #: ExitCode.REFUSED, for when the module that declares it may be somebody else's


def _profiles(context: typer.Context, incomplete: str) -> list[str]:
    """The profiles that the shell may complete; none where the settings cannot be read."""
    from config.settings import SettingsError, load_settings

    try:
        known = load_settings(context.params.get("config"), profile=None).profiles
    except SettingsError:
        return []
    return [name for name in known if name.startswith(incomplete)]


ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file; else COUNTERMAND_CONFIG.")]
ProfileName = Annotated[
    str | None, typer.Option(help="A profile of the settings file; else COUNTERMAND_PROFILE.", autocompletion=_profiles)
]
Url = Annotated[str | None, typer.Option(help="The control plane, for `jobs` and `planes`; else COUNTERMAND_URL.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
LogFormat = Annotated[str | None, typer.Option(help="auto, json or console.")]


def main() -> None:
    """Run the command; whatever is wrong is one sentence on stderr and a documented exit code."""
    with keep_exit_code():
        _run()


def _run() -> NoReturn:
    shadowing = describe_shadowing()
    if shadowing:
        sys.stderr.write(f"countermand: {shadowing}\n")
        raise SystemExit(_REFUSED)
    from config.settings import SettingsError
    from control_plane.errors import CountermandError, ExitCode
    from control_plane.printing import fail

    try:
        raise SystemExit(build_app()(prog_name="countermand", standalone_mode=False))
    except CountermandError as error:
        fail(error.message, error.exit_code)
    except SettingsError as error:
        fail(str(error), ExitCode.BAD_INPUT)
    except typer.TyperException as error:
        _fail_over_usage(error.format_message())
    except typer.Abort:
        fail("aborted", ExitCode.UNEXPECTED)


def _fail_over_usage(message: str) -> NoReturn:
    """Without arguments nothing is wrong: the help was shown, and there is no message."""
    from control_plane.errors import ExitCode
    from control_plane.printing import fail

    if not message:
        raise SystemExit(ExitCode.BAD_INPUT)
    fail(" ".join(message.split()), ExitCode.BAD_INPUT)


class Commands(TyperGroup):
    """The subcommands; one whose packages are missing names all the extras that it needs."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; Refused when it is not wholly installed."""
        from control_plane.errors import Refused

        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in PACKAGES:
                raise
            extras = EXTRAS.get(ctx.invoked_subcommand, "server")
            elsewhere = (
                INSTEAD_OF_A_STORE if ctx.invoked_subcommand in REACHING_OUT and error.name == "sqlalchemy" else ""
            )
            message = f"{error.name} is not installed: this command needs countermand[{extras}]{elsewhere}"
            raise Refused(message) from error


def build_app() -> typer.Typer:
    """The command with all its subcommands."""
    from control_plane import cli, jobs_cli, planes_cli, tokens_cli
    from workers.cli.demo import demo
    from workers.cli.executor import executor
    from workers.cli.planes import check
    from workers.cli.serve import serve
    from workers.cli.worker import worker

    app = typer.Typer(
        cls=Commands,
        help="Cancels running data jobs and proves that they stopped.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.add_typer(cli.db, name="db")
    app.add_typer(_with_check(planes_cli.planes, check), name="planes")
    app.add_typer(jobs_cli.jobs, name="jobs")
    app.add_typer(tokens_cli.tokens, name="tokens")
    app.command(epilog="Example: countermand serve --port 8080 --database-url postgresql://user@host/name")(serve)
    app.command(epilog=f"Example: countermand worker --data-plane local. {REMOTE}")(worker)
    app.command(epilog=f"Example: countermand executor --data-plane local --data-folder ./executor-1. {REMOTE}")(
        executor
    )
    app.command(epilog="Example: countermand demo --json. On Spark: countermand demo --spark")(demo)
    return app


def _with_check(planes: typer.Typer, check: Callable[..., None]) -> typer.Typer:
    """Users' commands for planes, and the one that needs the adapters, which the control plane does not know."""
    both = typer.Typer(help=planes.info.help, no_args_is_help=True)
    both.add_typer(planes)
    both.command(epilog="Example: countermand planes check snow --json")(check)
    return both


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"countermand {version('countermand')}")
        raise typer.Exit


def _root(
    context: typer.Context,
    config: ConfigFile = None,
    profile: ProfileName = None,
    url: Url = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Tell the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    given = {"profile": profile, "url": url, "log_level": log_level, "log_format": log_format}
    context.obj = Desk(config, given)
