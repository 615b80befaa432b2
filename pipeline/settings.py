"""Configuration: every setting, its default and what it is for, from ROOMMETER_* in the environment."""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, DirectoryPath, Field, PositiveInt
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from pipeline.brokers import Brokers
from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE


class Settings(BaseSettings):
    """All settings. The tables of README and of the guides in infra/ are checked against this class."""

    model_config = SettingsConfigDict(
        env_prefix="ROOMMETER_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # passwords stand in some
    )

    kafka: Annotated[
        str,
        AfterValidator(Brokers.parse),
        Field(description="Kafka, host:port,host:port; with TLS or a password: infra/README.md"),
    ] = "127.0.0.1:9092"
    topic_prefix: Annotated[str, Field(description="put before the name of every topic, and of the consumer group")] = (
        ""
    )
    partitions: Annotated[PositiveInt, Field(description="partitions of the lifecycle topic, when we create it")] = 8
    replication_factor: Annotated[PositiveInt, Field(description="replicas of each topic, when we create it")] = 1
    store: Annotated[str, Field(description="ClickHouse: chdb:///directory, or http(s)://user:password@host:port")] = (
        "chdb:data/clickhouse"
    )
    database: Annotated[str, Field(description="ClickHouse database", pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$")] = (
        "roommeter"
    )
    cluster: Annotated[str, Field(description="ClickHouse cluster for replicated tables; empty for one server")] = ""
    data_dir: Annotated[Path, Field(description="where `up` keeps its broker's and ClickHouse's data")] = Path("data")
    http_host: Annotated[str, Field(description="address of health, readiness, metrics and queries")] = "127.0.0.1"
    http_port: Annotated[int, Field(description="its port; 0 takes a free one", ge=0, le=65535)] = 8130
    broker_port: Annotated[
        int, Field(description="port of the embedded broker; 0 takes a free one", ge=0, le=65535)
    ] = 0
    meters_file: Annotated[
        Path | None, Field(description="a table of meters of your own, in place of the built-in")
    ] = None
    plans_file: Annotated[
        Path | None, Field(description="plans, prices and who is on which plan (TOML), in place of the example")
    ] = None
    grace_period_ms: Annotated[
        int, Field(description="how long after its end an hour is first emitted (R18)", ge=0)
    ] = 5 * MS_PER_MINUTE
    orphan_after_ms: Annotated[
        PositiveInt, Field(description="silence after which an open session is an orphan (R9)")
    ] = MS_PER_DAY
    correction_window_ms: Annotated[PositiveInt, Field(description="how late an event may be to count (R11)")] = (
        60 * MS_PER_DAY
    )
    future_skew_ms: Annotated[int, Field(description="how far ahead of the broker an event may be (R11)", ge=0)] = (
        5 * MS_PER_MINUTE
    )
    emit_interval_ms: Annotated[PositiveInt, Field(description="how often the emitter looks for complete hours")] = (
        10_000
    )
    audit_interval_ms: Annotated[PositiveInt, Field(description="how often `up` audits itself")] = 5 * MS_PER_MINUTE
    max_event_bytes: Annotated[PositiveInt, Field(description="a larger event is a dead letter (R21)")] = 262_144
    stall_after_ms: Annotated[
        PositiveInt, Field(description="how long nothing may be done while something waits; then /readyz says no")
    ] = MS_PER_MINUTE
    secrets_dir: Annotated[
        DirectoryPath | None,
        Field(description="a directory whose file `roommeter_store` is STORE, and so on; files others name, too"),
    ] = None
    batch_events: Annotated[PositiveInt, Field(description="most events of one insert")] = 30_000
    session_timeout_ms: Annotated[PositiveInt, Field(description="silence after which Kafka replaces a worker")] = (
        10_000
    )
    dead_letter_limit_percent: Annotated[
        int, Field(description="a worker stops when more of the last records than this are dead letters", ge=1, le=100)
    ] = 90
    dead_letter_window: Annotated[PositiveInt, Field(description="how many last records that limit looks at")] = 1_000
    evict_after_ms: Annotated[PositiveInt, Field(description="how long a closed room stays in the worker's memory")] = (
        6 * 60 * MS_PER_MINUTE
    )

    spool_bytes: Annotated[
        PositiveInt, Field(description="most the gateway keeps on disk while the brokers are away")
    ] = 1_073_741_824
    ack_timeout_ms: Annotated[
        PositiveInt, Field(description="how long the gateway waits for the brokers before it uses its spool")
    ] = 2_000

    reconcile_interval_ms: Annotated[
        PositiveInt, Field(description="how often each media server is asked who is connected (R9)")
    ] = MS_PER_MINUTE

    limits_file: Annotated[
        Path | None, Field(description="what projects may use: limits (TOML); none: no limits are watched")
    ] = None
    limit_interval_ms: Annotated[PositiveInt, Field(description="how often limits are looked at")] = 500

    alerts_file: Annotated[
        Path | None, Field(description="parameters of anomaly detectors that are to be otherwise (TOML)")
    ] = None
    alert_targets_file: Annotated[
        Path | None, Field(description="the webhook that alerts are delivered to (TOML); none: no webhook")
    ] = None
    alert_interval_ms: Annotated[PositiveInt, Field(description="how often anomalies are looked for")] = 10_000

    projects_file: Annotated[
        Path | None, Field(description="who may send to the gateway: projects, keys, tokens (TOML); none: nobody")
    ] = None
    gateway_host: Annotated[str, Field(description="address of the gateway, for media servers to post to")] = (
        "127.0.0.1"
    )
    gateway_port: Annotated[int, Field(description="its port; 0 takes a free one", ge=0, le=65535)] = 8131
    gateway_body_bytes: Annotated[PositiveInt, Field(description="the largest webhook or event, unpacked")] = 262_144
    gateway_batch_bytes: Annotated[PositiveInt, Field(description="the largest batch of events, unpacked")] = 4_194_304
    gateway_batch_events: Annotated[PositiveInt, Field(description="most events of one request")] = 1_000
    gateway_json_depth: Annotated[PositiveInt, Field(description="how deep JSON may nest")] = 32
    gateway_header_timeout_ms: Annotated[PositiveInt, Field(description="how long a request's header may take")] = (
        10_000
    )
    gateway_body_timeout_ms: Annotated[PositiveInt, Field(description="how long a request's body may take")] = 10_000
    gateway_requests: Annotated[
        PositiveInt, Field(description="requests worked on at once; further ones are told to come again")
    ] = 512

    console_host: Annotated[
        str, Field(description="address of the console; when it is not loopback, a token is asked for")
    ] = "127.0.0.1"
    console_port: Annotated[int, Field(description="its port; 0 takes a free one", ge=0, le=65535)] = 8132
    console_require_token: Annotated[
        bool, Field(description="ask for a token on loopback too: behind a reverse proxy")
    ] = False
    console_metrics: Annotated[
        str, Field(description="where `roommeter console` reads the pipeline's health: URLs of /metrics, with commas")
    ] = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take files of `secrets_dir` where neither a caller nor the environment says anything."""
        del dotenv_settings, file_secret_settings
        assert isinstance(env_settings, EnvSettingsSource)
        directory = env_settings().get("secrets_dir")
        if directory is None or not Path(directory).is_dir():
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=directory)

    def secrets(self, environ: Mapping[str, str]) -> Mapping[str, str]:
        """Return what names of secrets in other files stand for: variables, and files of `secrets_dir`.

        Raises OSError where a file cannot be read.
        """
        paths = () if self.secrets_dir is None else self.secrets_dir.iterdir()
        files = {path.name: path.read_text("utf-8").rstrip("\n") for path in paths if path.is_file()}
        return ChainMap(dict(environ), files)

    @property
    def group(self) -> str:
        """The worker's consumer group, and the id of its Faust app."""
        return f"{self.topic_prefix}roommeter"
