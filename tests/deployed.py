"""What stands in ``deploy/``, read as systemd, Docker and Compose read it; none of them is needed."""

import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import typer
import yaml

from workers.cli import build_app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = DEPLOY / "systemd"


# --- commands of ours


def faults_of_command(words: Sequence[str]) -> Iterator[str]:
    """What keeps ``countermand WORDS`` from being a command line: an unknown command, option, or argument too many."""
    command: Any = typer.main.get_command(build_app())
    context = command.make_context("countermand", [], resilient_parsing=True)
    rest = list(words)
    while inner := getattr(command, "commands", None):
        name = rest.pop(0) if rest else ""
        if name not in inner:
            yield f"there is no command {name!r} among {', '.join(inner)}"
            return
        command = inner[name]
    try:
        command.make_context(command.name, rest, parent=context)
    except typer.TyperException as error:
        yield f"{command.name}: {error.format_message()}"


# --- systemd


class Line(NamedTuple):
    """A directive of a unit."""

    section: str
    name: str
    value: str


#: Of systemd 252, those that a unit of ours may use: a name that is misspelt is ignored there, with a warning.
DIRECTIVES = {
    "Unit": {"After", "Description", "StartLimitIntervalSec", "Wants"},
    "Install": {"WantedBy"},
    "Service": {
        *(
            "Environment",
            "EnvironmentFile",
            "ExecReload",
            "ExecStart",
            "ExecStartPre",
            "Group",
            "KillMode",
            "KillSignal",
        ),
        *(
            "LoadCredential",
            "Restart",
            "RestartPreventExitStatus",
            "RestartSec",
            "StateDirectory",
            "StateDirectoryMode",
        ),
        *("TimeoutStartSec", "TimeoutStopSec", "Type", "UMask", "User", "WorkingDirectory"),
        *("AmbientCapabilities", "CapabilityBoundingSet", "DevicePolicy", "LockPersonality", "MemoryDenyWriteExecute"),
        *("NoNewPrivileges", "PrivateDevices", "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectClock"),
        *("ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules"),
        *("ProtectKernelTunables", "ProtectProc", "ProtectSystem", "RemoveIPC", "RestrictAddressFamilies"),
        *("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "SocketBindDeny", "SystemCallArchitectures"),
        *("SystemCallErrorNumber", "SystemCallFilter"),
    },
}
#: Where pipx puts our command, and where the files beside a unit are installed.
COMMAND = "/usr/local/bin/countermand"
INSTALLED = "/etc/countermand/"
#: Of ten points of exposure, as systemd counts them. The rest is the network, and that its address is not known here.
MOST_EXPOSED = 1.2


class Unit(NamedTuple):
    """A unit of systemd."""

    name: str
    lines: list[Line]

    @classmethod
    def read(cls, path: Path) -> "Unit":
        """Read it; AssertionError where a line is neither section, directive nor comment."""
        lines, section = [], ""
        for text in path.read_text().splitlines():
            if heading := re.fullmatch(r"\[(\w+)\]", text):
                section = heading[1]
            elif text and not text.startswith("#"):
                directive = re.fullmatch(r"(\w+)=(.*[^\\])?", text)
                assert directive, f"{path.name}: {text!r} is no directive"
                lines.append(Line(section, directive[1], directive[2] or ""))
        return cls(path.name, lines)

    def all(self, name: str) -> list[str]:
        """The values of every directive of this name."""
        return [line.value for line in self.lines if line.name == name]

    def one(self, name: str) -> str:
        """The value of the one directive of this name."""
        [value] = self.all(name)
        return value

    def commands(self) -> list[list[str]]:
        """Its command lines of ours, in words."""
        return [shlex.split(value)[1:] for name in ("ExecStartPre", "ExecStart") for value in self.all(name)]

    def faults(self, folder: Path = UNITS) -> Iterator[str]:
        """What systemd or the command would not take, and files that are not beside it."""
        for line in self.lines:
            if line.name not in DIRECTIVES.get(line.section, ()):
                yield f"[{line.section}] has no {line.name}"
        for value in [*self.all("ExecStartPre"), *self.all("ExecStart")]:
            if shlex.split(value)[0] != COMMAND:
                yield f"{value!r} is not {COMMAND}"
        for words in self.commands():
            yield from faults_of_command(words)
        for file in self.all("EnvironmentFile"):
            if not (file.startswith(INSTALLED) and (folder / f"countermand-{Path(file).name}").is_file()):
                yield f"there is no {file} to install"


def systemds_findings(path: Path, folder: Path) -> Iterator[str]:
    """What systemd itself says of the unit, where it is installed: each warning, and too much exposure.

    The command is looked for, so a copy of the unit in *folder* names one that is there.
    """
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return
    copy = folder / path.name
    copy.write_text(path.read_text().replace(COMMAND, "/bin/true"))
    yield from _analyze(tool, "verify", "--man=no", str(copy)).stderr.splitlines()
    assessed = _analyze(tool, "security", "--offline=true", "--no-pager", str(copy))
    exposure = re.search(r"exposure level .*: (\d+\.\d)", assessed.stdout)
    if exposure and float(exposure[1]) > MOST_EXPOSED:  # before version 250 it tells nothing of a file
        yield f"its exposure is {exposure[1]}"


def _analyze(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool, *arguments], check=False, capture_output=True, text=True, timeout=60)


def variables(path: Path) -> dict[str, str]:
    """What an environment file sets, and what it sets when its comments' signs are taken away."""
    found = re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", path.read_text(), flags=re.MULTILINE)
    return dict(found)


# --- Docker


class Step(NamedTuple):
    """An instruction of a Dockerfile."""

    word: str
    rest: str


class Stage(NamedTuple):
    """What stands between one FROM and the next."""

    name: str
    base: str
    steps: list[Step]

    def all(self, word: str) -> list[str]:
        return [step.rest for step in self.steps if step.word == word]


def stages(path: Path = DEPLOY / "Dockerfile") -> dict[str, Stage]:
    """The stages of the Dockerfile, by name."""
    kept = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    instructions = re.sub(r"\\\n\s*", "", "\n".join(kept))
    found = [_stage(text) for text in re.split(r"^FROM ", instructions, flags=re.MULTILINE)[1:]]
    return {stage.name: stage for stage in found}


def _stage(text: str) -> Stage:
    first, *others = text.splitlines()
    base, _, name = first.partition(" AS ")
    steps = [Step(word, rest) for word, _, rest in (line.partition(" ") for line in others)]
    return Stage(name, base, steps)


def in_context(root: Path = ROOT) -> Iterator[Path]:
    """The files that ``.dockerignore`` lets into the context: all but what it names is left out."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    for top in let_in:
        path = root / top
        assert path.exists(), f".dockerignore lets in {top}, which is not there"
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        left_out = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
        for file in files:
            parts = file.relative_to(root).parts
            if file.is_file() and not any(fnmatch(part, rule) for part in parts for rule in left_out):
                yield file.relative_to(root)


# --- Compose


def services() -> Mapping[str, Mapping[str, Any]]:
    """The services of ``compose.yaml``, with what they share laid into each."""
    told: Mapping[str, Mapping[str, Any]] = compose()["services"]
    return told


def compose() -> Mapping[str, Any]:
    told: Mapping[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return told


def ours(services: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Those that are built from our Dockerfile."""
    return {name: service for name, service in services.items() if "build" in service}


def mounts(service: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """By the path in the container, which volume is there, and how."""
    found = (volume.split(":") for volume in service.get("volumes", ()))
    return {parts[1]: (parts[0], parts[2] if len(parts) > 2 else "rw") for parts in found}


def sharing(services: Iterable[tuple[str, Mapping[str, Any]]]) -> Mapping[str, set[str]]:
    """By volume, who mounts it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name, service in services:
        for volume, _ in mounts(service).values():
            found[volume].add(name)
    return found
