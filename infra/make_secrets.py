"""Makes what infra/compose.yaml needs to know and nobody else may: `python infra/make_secrets.py`, once.

Passwords of this installation, in infra/secrets and infra/.env, which stay out of git. Files are for their owner and
its group, which the containers get in addition. What is there already is never overwritten; to change passwords, delete
the directory and run this again.
"""

import hashlib
import os
import secrets
import sys
from pathlib import Path

USERS = """<!-- Made by make_secrets.py: digests of the passwords of ClickHouse's users. -->
<clickhouse>
    <users>
        <admin><password_sha256_hex>{admin}</password_sha256_hex></admin>
        <roommeter><password_sha256_hex>{roommeter}</password_sha256_hex></roommeter>
        <console><password_sha256_hex>{console}</password_sha256_hex></console>
        <grafana><password_sha256_hex>{grafana}</password_sha256_hex></grafana>
    </users>
</clickhouse>
"""
PROJECTS = """# Who may send to the gateway (infra/connect.md), and who may look at the console (infra/console.md).
# Restart both after a change.
[projects.demo]
tokens = [{{sha256 = "{token}"}}]

[[operators]]
name = "operator"
sha256 = "{operator}"
"""


def digest(text: str) -> str:
    """Return the hex digest by which a password or token is known."""
    return hashlib.sha256(text.encode()).hexdigest()


def contents() -> dict[str, str]:
    """Return new secrets by the names of their files."""
    admin, roommeter, console, grafana, signing_in, token, operator = (secrets.token_urlsafe(32) for _ in range(7))
    users = {"admin": admin, "roommeter": roommeter, "console": console, "grafana": grafana}
    return {
        "roommeter_store": f"http://roommeter:{roommeter}@clickhouse:8123",
        "roommeter_admin_store": f"http://admin:{admin}@clickhouse:8123",
        "clickhouse_admin_password": admin,
        "roommeter_console_store": f"http://console:{console}@clickhouse:8123",
        "clickhouse_users.xml": USERS.format(**{name: digest(password) for name, password in users.items()}),
        "grafana_clickhouse_password": grafana,
        "grafana_admin_password": signing_in,
        "demo_token": token,
        "console_token": operator,
        "projects.toml": PROJECTS.format(token=digest(token), operator=digest(operator)),
    }


def make(folder: Path) -> list[Path]:
    """Write secrets and .env below a folder; return the files. Raises FileExistsError rather than overwrite one."""
    directory = folder / "secrets"
    directory.mkdir(mode=0o750, exist_ok=True)
    files = {directory / name: text for name, text in contents().items()}
    if there := [str(path) for path in files if path.exists()]:
        raise FileExistsError(f"already there: {', '.join(there)}; delete all of {directory} to make new ones")
    for path, text in files.items():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    group = next(iter(files)).stat().st_gid
    (folder / ".env").write_text(f"ROOMMETER_SECRETS_GID={group}\n")
    return list(files)


if __name__ == "__main__":
    try:
        for made in make(Path(__file__).parent):
            print(made)  # noqa: T201 - a program
    except FileExistsError as error:
        sys.exit(str(error))
