"""``deploy/README.md`` and the proxies beside it tell what our commands and our API take."""

import re
import shlex
from collections.abc import Iterator
from typing import get_args

from msgspec import Meta

from control_plane.api.app import MOST_BYTES
from control_plane.api.server import IDLE_SECONDS
from control_plane.process_wire import Wait
from tests.deployed import DEPLOY, faults_of_command

PAGE = (DEPLOY / "README.md").read_text()
NGINX = (DEPLOY / "proxy" / "nginx.conf").read_text()
CADDY = (DEPLOY / "proxy" / "Caddyfile").read_text()
OURS = re.compile(
    r"\bcountermand ((?:db|executor|jobs|planes|serve|tokens|worker)\b(?:'[^']*'|\"[^\"]*\"|[^>|&;)\n`])*)"
)


def commands() -> Iterator[str]:
    """Every command line of ours in the page, in a block or within a sentence, each on one line."""
    diagram, *blocks = re.findall(r"^```\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert "<==" in diagram
    for text in [*blocks, *re.findall(r"(?<!`)`(countermand [^`]+)`", PAGE)]:
        yield from OURS.findall(text.replace("\\\n", " "))


def test_every_command_on_the_page_is_one() -> None:
    found = [shlex.split(command, comments=True) for command in commands()]

    assert ["tokens", "revoke"] in [words[:2] for words in found]
    assert [fault for words in found for fault in faults_of_command(words)] == []


def test_every_file_that_the_page_names_is_there() -> None:
    linked = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", PAGE)]
    named = re.findall(r"\bdeploy/[\w./-]*\w", PAGE.replace("$process", "worker"))

    assert [path for path in linked if path and not (DEPLOY / path).exists()] == []
    assert [path for path in named if not (DEPLOY.parent / path).exists()] == []


def test_a_proxy_lets_the_longest_poll_end_and_lets_go_of_a_connection_before_the_control_plane_does() -> None:
    [longest] = [bound.le for bound in get_args(Wait) if isinstance(bound, Meta)]
    assert longest
    waits = [re.search(rf"{name} (\d+)s", text) for name, text in [("read_timeout", NGINX), ("header_timeout", CADDY)]]
    idle = [re.search(rf"{name} (\d+)s", text) for name, text in [("keepalive_timeout", NGINX), ("keepalive", CADDY)]]

    assert all(found and int(found[1]) >= longest + 20 for found in waits)
    assert all(found and int(found[1]) < IDLE_SECONDS for found in idle)


def test_a_proxy_takes_what_the_api_takes() -> None:
    nginx, caddy = re.search(r"client_max_body_size (\d+)m;", NGINX), re.search(r"max_size (\d+)MB", CADDY)

    assert nginx
    assert caddy
    assert int(nginx[1]) * 2**20 >= MOST_BYTES
    assert int(caddy[1]) * 10**6 >= MOST_BYTES
