"""ROOMMETER_KAFKA: where the brokers are, how to speak to them, and nothing shown that is secret."""

import pickle
from pathlib import Path
from typing import Final

import pytest
from click import ClickException

from pipeline.brokers import Brokers, client_options, security_of
from pipeline.cli.options import settings_with
from tests.locks import Locks

_HOSTS: Final = "kafka-1:9093,kafka-2:9093"
#: The password is p@ss/wörd: in an address it is written as in any URL.
_ADDRESS: Final = f"kafka+ssl://acme:p%40ss%2Fw%C3%B6rd@{_HOSTS}"

_REFUSED: Final = {
    "http://kafka-1:9092": "is not host:port",
    "kafka://": "is not host:port",
    "kafka://kafka-1:9092/topic": "is not host:port",
    "kafka+ssl://hunter2@kafka-1:9093": "a user without a password",
    "kafka+ssl://:hunter2@kafka-1:9093": "a password without a user",
    "kafka://acme:hunter2@kafka-1:9092": "write kafka+ssl://",
    "kafka://acme:hunter2@127.0.0.1:9092,kafka-1:9092": "write kafka+ssl://",
    "kafka+ssl://acme:hunter2@kafka-1:9093?sasl=GSSAPI": "sasl is one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN",
    "kafka+ssl://kafka-1:9093?sasl=PLAIN": "goes with user:password@",
    "kafka+ssl://acme:hunter2@kafka-1:9093?cafile=x": "an option that is none of sasl, ca, certificate, key",
    "kafka+ssl://acme:my?hunter2@kafka-1:9093": "in a password ? is written %3F",
    "kafka+ssl://acme:my/hunter2@kafka-1:9093": "is not host:port",
    "kafka+ssl://acme:my#hunter2@kafka-1:9093": "is not host:port",
    "kafka+ssl://acme:hunter2@[kafka-1:9093": "is not host:port",
    "kafka+ssl://acme:hunter2\u2100@kafka-1:9093": "is not host:port",
    "kafka://kafka-1:9092?ca=ca.pem": "certificates without TLS",
    "kafka+ssl://kafka-1:9093?key=key.pem": "a key without its certificate",
    "kafka+ssl://kafka-1:9093?ca=no-such-file.pem": "ca, certificate or key cannot be used: FileNotFoundError",
}


def test_a_plain_address_asks_for_neither_tls_nor_a_password() -> None:
    """What a broker on a private network needs, and the default."""
    for address in (_HOSTS, f"kafka://{_HOSTS}"):
        assert client_options(Brokers.parse(address)) == client_options(_HOSTS)
    assert client_options(_HOSTS)["security_protocol"] == "PLAINTEXT"


def test_an_address_with_a_password_speaks_scram_over_tls() -> None:
    """The strongest mechanism there is for passwords, unless another is named; certificates are checked."""
    tls, mechanism, username, password = security_of(Brokers.parse(_ADDRESS))
    assert (mechanism, username, password) == ("SCRAM-SHA-512", "acme", "p@ss/wörd")
    assert tls is not None
    assert tls.check_hostname
    assert security_of(Brokers.parse(f"{_ADDRESS}?sasl=PLAIN")).mechanism == "PLAIN"


def test_a_client_may_show_a_certificate(tmp_path: Path) -> None:
    """Mutual TLS: with the authority of one's own."""
    locks = Locks(tmp_path, 0, 0)
    address = f"kafka+ssl://{_HOSTS}?ca={locks.authority}&certificate={locks.client}"
    assert client_options(Brokers.parse(address))["security_protocol"] == "SSL"


def test_a_password_may_cross_the_loopback() -> None:
    """Nobody listens there; for brokers under trial."""
    assert security_of(Brokers.parse("kafka://acme:hunter2@127.0.0.1:9092?sasl=PLAIN")).tls is None


def test_an_address_shows_hosts_and_no_secret() -> None:
    """Whatever prints it, and whatever stores it."""
    brokers = Brokers.parse(_ADDRESS)
    shown = f"{brokers} {brokers!r} {brokers:s} {[brokers]}".encode() + pickle.dumps(str(brokers))
    assert _HOSTS.encode() in shown
    assert b"acme" not in shown


@pytest.mark.parametrize(("address", "reason"), _REFUSED.items(), ids=str)
def test_what_cannot_be_meant_is_refused_without_showing_it(address: str, reason: str) -> None:
    """The message says what to write; the password is not in it."""
    with pytest.raises(ClickException, match="ROOMMETER_KAFKA: ") as refused:
        settings_with(kafka=address)
    assert reason in refused.value.message
    assert "hunter2" not in f"{refused.value.message} {refused.value.__cause__}"
