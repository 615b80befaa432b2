"""Configuration: every setting, its default and what it is for, from ROOMMETER_* in the environment."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.metering.units import MS_PER_DAY, MS_PER_MINUTE


class Settings(BaseSettings):
    """All settings. The README's table is checked against this class."""

    model_config = SettingsConfigDict(env_prefix="ROOMMETER_", frozen=True, extra="ignore")

    kafka: Annotated[str, Field(description="Kafka bootstrap servers, host:port,host:port")] = "127.0.0.1:9092"
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
    max_event_bytes: Annotated[PositiveInt, Field(description="a larger event is a dead letter (R21)")] = 262_144
    batch_events: Annotated[PositiveInt, Field(description="most events of one insert")] = 10_000
    session_timeout_ms: Annotated[PositiveInt, Field(description="silence after which Kafka replaces a worker")] = (
        10_000
    )
    evict_after_ms: Annotated[PositiveInt, Field(description="how long a closed room stays in the worker's memory")] = (
        6 * 60 * MS_PER_MINUTE
    )

    @property
    def group(self) -> str:
        """The worker's consumer group, and the id of its Faust app."""
        return f"{self.topic_prefix}roommeter"
