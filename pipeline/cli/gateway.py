"""Command that takes events in: gateway."""

from typing import TYPE_CHECKING

import click

from pipeline.cli.options import examples, expected_errors, settings_with
from pipeline.cli.run import configure_logging, run_async, until_stopped

if TYPE_CHECKING:
    from pipeline.embedded import Entrance


@click.command(
    epilog=examples(
        "ROOMMETER_PROJECTS_FILE=projects.toml roommeter gateway",
        "ROOMMETER_GATEWAY_HOST=0.0.0.0 ROOMMETER_KAFKA=kafka:9092 roommeter gateway",
    ),
)
@click.option("--verbose", "-v", is_flag=True, help="Log more, the libraries too.")
@expected_errors
def gateway(*, verbose: bool) -> None:
    """Take events in over HTTP: webhooks of LiveKit and Janus, and CloudEvents. `up` does so too.

    Answers 2xx only after Kafka, or the disk while Kafka is away, has the events.
    """
    from pipeline import embedded

    settings = settings_with()

    def tell(entrance: "Entrance") -> None:
        click.echo(f"gateway: media servers post to http://{settings.gateway_host}:{entrance.gateway_port}", err=True)
        for path, sender in (
            ("/webhooks/livekit", "LiveKit, signed with a project's API key"),
            ("/webhooks/janus", "Janus's event handler, by user and password"),
            ("/webhooks/litellm", "LiteLLM's logs, by a project's token"),
            ("/v1/events", "CloudEvents, by a project's token"),
        ):
            click.echo(f"  {path:<18} {sender}", err=True)
        click.echo(f"  health and metrics at http://{settings.http_host}:{entrance.port}", err=True)
        click.echo(f"  Kafka at {settings.kafka}", err=True)

    configure_logging(verbose=verbose)
    run_async(until_stopped(embedded.gateway(settings), tell))
