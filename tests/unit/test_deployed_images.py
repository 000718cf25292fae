"""``deploy/Dockerfile`` and ``deploy/compose.yaml``: their commands are ours, and nothing can do more than it must."""

import json
import re
import shlex
from typing import Any

import pytest

from config.names import field_names, variable_of
from config.settings import Settings, load_settings
from control_plane.tokens import Permission
from tests.deployed import (
    DEPLOY,
    ROOT,
    compose,
    faults_of_command,
    in_context,
    mounts,
    ours,
    services,
    sharing,
    stages,
)

SERVICES = services()
OURS = ours(SERVICES)
IMAGES = ["control-plane", "plane"]
BESIDE_ENGINES = ["executor", "worker"]
ENROL = "countermand-enrol"

each_image = pytest.mark.parametrize("image", IMAGES)
each_service = pytest.mark.parametrize("name", sorted(OURS))
beside_engines = pytest.mark.parametrize("name", BESIDE_ENGINES)


def waits_for(name: str) -> set[tuple[str, str]]:
    return {(other, how["condition"]) for other, how in SERVICES[name].get("depends_on", {}).items()}


# --- the Dockerfile


@each_image
def test_an_image_runs_a_command_of_ours_as_a_user_without_privileges(image: str) -> None:
    stage, base = stages()[image], stages()["base"]
    command = json.loads(stage.all("CMD")[0])

    assert stage.base == "base"
    assert [json.loads(entry) for entry in base.all("ENTRYPOINT")] == [["countermand"]]
    assert [*faults_of_command(command)] == []
    assert stage.all("USER") == ["10001:10001"]
    assert "--uid 10001" in base.all("RUN")[0]


def test_an_image_takes_nothing_from_where_it_is_built_but_the_installed_packages() -> None:
    for image in [*IMAGES, "base"]:
        copied = [shlex.split(copy) for copy in stages()[image].all("COPY")]
        from_stages = [words for words in copied if words[0].startswith("--from=")]
        own = [words[-2] for words in copied if words not in from_stages]

        assert [words[-2:] for words in from_stages] == [["/opt/countermand"] * 2] * (image != "base")
        assert own == (["deploy/enrol.sh"] if image == "control-plane" else [])


def test_whatever_a_stage_copies_is_there() -> None:
    allowed = {str(file) for file in in_context()} | {"."}
    for stage in stages().values():
        for words in map(shlex.split, stage.all("COPY")):
            came_from = words[0].removeprefix("--from=") if words[0].startswith("--from=") else None
            assert came_from in stages() if came_from else words[-2] in allowed


def test_the_context_holds_what_is_built_and_neither_histories_nor_tokens_nor_databases() -> None:
    tops = {file.parts[0] for file in in_context()}

    packages = {"adapters", "config", "control_plane", "workers"}
    assert tops == packages | {"deploy", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "requirements.lock"}
    assert [str(file) for file in in_context() if file.parts[0] == "deploy"] == ["deploy/enrol.sh"]


def test_every_package_comes_by_its_hash_in_the_lock() -> None:
    installs = [
        run for stage in stages().values() for run in stage.all("RUN") if re.search(r"\b(pip install|uv build)\b", run)
    ]

    assert len(installs) == 6
    for run in installs:
        own_wheel = "--no-deps /opt/wheel/*.whl" in run
        assert own_wheel or "--require-hashes" in run or "--no-build --constraint requirements.lock" in run


# --- the Compose file


@each_service
def test_a_service_of_ours_runs_a_command_of_ours(name: str) -> None:
    service = OURS[name]

    if service.get("entrypoint") == [ENROL]:
        assert len(service["command"]) == 3
    else:
        assert "entrypoint" not in service
        assert [*faults_of_command(service["command"])] == []


@each_service
def test_a_service_of_ours_is_given_settings_that_there_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: value for name, value in OURS[name]["environment"].items() if name.startswith("COUNTERMAND_")}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)

    known = {variable_of(name) for name in field_names(Settings)}
    assert [variable for variable in given if variable not in known] == []
    load_settings()


@each_service
def test_a_service_of_ours_is_built_from_a_stage_that_there_is_and_keeps_no_privilege(name: str) -> None:
    service = OURS[name]
    build = service["build"]

    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    assert f"countermand-{build['target']}" == service["image"]
    assert build["target"] in IMAGES
    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@beside_engines
def test_a_process_beside_an_engine_has_no_way_to_the_database(name: str) -> None:
    service = OURS[name]

    assert service["build"]["target"] == "plane"
    assert not set(service["networks"]) & set(SERVICES["postgres"]["networks"])
    assert not [variable for variable in service["environment"] if "DATABASE" in variable or variable.startswith("PG")]
    assert service["environment"]["COUNTERMAND_CONTROL_PLANE"] == "http://control-plane:8080"
    assert set(service["networks"]) <= set(SERVICES["control-plane"]["networks"])
    assert not {"ports", "expose"} & service.keys()


@beside_engines
def test_a_process_beside_an_engine_reads_its_token_from_a_volume_that_enrol_alone_writes(name: str) -> None:
    token_file = OURS[name]["environment"]["COUNTERMAND_TOKEN_FILE"]
    volume, how = mounts(OURS[name])[token_file.removesuffix("/token")]

    folder = OURS["enrol"]["command"][2]
    assert token_file == f"{folder}/{name}/token"
    assert mounts(OURS["enrol"])[f"{folder}/{name}"] == (volume, "rw")
    assert how == "ro"
    assert sharing(SERVICES.items())[volume] == {"enrol", name}


def test_a_worker_finds_the_executors_socket_where_the_executor_says_that_it_is() -> None:
    folder = OURS["executor"]["command"][-1]
    beside = folder.rpartition("/")[0]

    of_worker, of_executor = mounts(OURS["worker"])[beside], mounts(OURS["executor"])[beside]

    assert (of_worker[0], of_executor) == (of_executor[0], (of_executor[0], "rw"))


def test_what_a_volume_is_first_mounted_on_belongs_to_the_images_user() -> None:
    made = stages()["base"].all("RUN")[0]
    mounted = {path for service in OURS.values() for path in mounts(service)}

    assert "install -d -o countermand -g countermand -m 0700" in made
    assert [path for path in mounted if path not in made.split()] == []


def test_everything_starts_after_what_it_needs() -> None:
    assert "pg_isready" in SERVICES["postgres"]["healthcheck"]["test"]
    assert waits_for("migrate") == {("postgres", "service_healthy")}
    assert waits_for("control-plane") == {("migrate", "service_completed_successfully")}
    assert waits_for("enrol") == {("control-plane", "service_healthy")}
    assert stages()["control-plane"].all("HEALTHCHECK")
    for name in BESIDE_ENGINES:
        assert waits_for(name) == {("enrol", "service_completed_successfully")}


def test_nothing_but_the_api_can_be_reached_from_the_machine_and_nothing_at_all_from_elsewhere() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"control-plane": ["127.0.0.1:8080:8080"]}
    assert compose()["networks"]["database"] == {"internal": True}


def test_compose_waits_for_longer_than_a_process_drains() -> None:
    settings = load_settings()
    drains = {
        "worker": settings.worker.drain_seconds,
        "executor": settings.executor.drain_seconds,
        "control-plane": 30.0,
    }

    for name, seconds in drains.items():
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= seconds + 10


def test_no_password_stands_in_the_files() -> None:
    def strings(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for inner in value.values() for text in strings(inner)]
        return [text for inner in value for text in strings(inner)] if isinstance(value, list) else [str(value)]

    assert not [text for text in strings(compose()) if re.search(r"://[^/]*:[^/]*@", text)]
    for service in SERVICES.values():
        for variable, value in service["environment"].items():
            assert "PASSWORD" not in variable or value.startswith("${POSTGRES_PASSWORD:?")


def test_the_tokens_that_enrol_makes_have_permissions_that_there_are() -> None:
    named = re.findall(r"--permission ([\w:]+)", (DEPLOY / "enrol.sh").read_text())

    assert set(named) == {Permission.JOBS_WRITE, Permission.DATA_PLANES_READ, Permission.DATA_PLANES_WRITE}
