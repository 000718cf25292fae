"""What a process imports; the static side of it is in the import contracts of pyproject.toml."""

import subprocess
import sys
from pkgutil import walk_packages

import adapters
import workers

STORE_AND_WEB_FRAMEWORK = ("alembic", "litestar", "psycopg", "sqlalchemy")

#: In process with the control plane, or putting everything together.
WITH_A_STORE = {"workers.cli", "workers.local"}


def modules() -> list[str]:
    packages = [(adapters.__path__, "adapters."), (workers.__path__, "workers.")]
    found = [module.name for path, prefix in packages for module in walk_packages(path, prefix)]
    return [name for name in found if name not in WITH_A_STORE]


def test_a_remote_workers_process_imports_neither_a_store_nor_a_web_framework() -> None:
    """They cannot be imported there, as if they were not installed: Snowflake's connector takes SQLAlchemy if it is."""
    missing = f"import sys; sys.modules.update(dict.fromkeys({STORE_AND_WEB_FRAMEWORK}))"
    program = f"{missing}; import {', '.join(modules())}"

    ran = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr


def test_the_commands_start_without_importing_what_only_some_of_them_need() -> None:
    program = """
import sys, workers.cli
workers.cli.build_app()
print(*[m for m in ('duckdb', 'httpx', 'sqlalchemy', 'starlette', 'tenacity') if m in sys.modules])
"""

    ran = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr


def test_users_commands_reach_the_api_without_importing_a_store_or_a_web_framework() -> None:
    program = f"""
import sys
from control_plane import client, jobs_cli, planes_cli
print(*[m for m in {(*STORE_AND_WEB_FRAMEWORK, "uvicorn")} if m in sys.modules])
"""

    ran = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
