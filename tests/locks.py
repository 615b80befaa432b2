"""Listeners of a Kafka broker that ask for TLS and a password, or for a certificate; and the keys to them."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

_LOGIN: Final = "org.apache.kafka.common.security"


class Locks:
    """A listener for passwords and one for certificates, of an authority that only they and our clients know."""

    user: Final = "roommeter"
    #: With what an address has to write otherwise, and Kafka's own configuration need not.
    password: Final = "s3cret/@:%"  # noqa: S105 - of a broker that lives as long as the tests

    def __init__(self, directory: Path, password_port: int, certificate_port: int) -> None:
        """Keep certificates and keys in a directory, which is made when they are needed."""
        self._directory = directory
        self.password_port = password_port
        self.certificate_port = certificate_port

    @cached_property
    def _authority(self) -> trustme.CA:
        self._directory.mkdir(exist_ok=True)
        return trustme.CA()

    def _certified(self, name: str) -> Path:
        """Make a certificate; return the file with its key (PKCS 8, as Kafka wants it) and its chain."""
        made = self._authority.issue_cert("127.0.0.1", common_name=name)
        key = load_pem_private_key(made.private_key_pem.bytes(), None)
        path = self._directory / f"{name}.pem"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        for part in made.cert_chain_pems:
            part.write_to_path(path, append=True)
        return path

    @cached_property
    def authority(self) -> Path:
        """The file with the certificate of the authority."""
        path = self._directory / "ca.pem"
        self._authority.cert_pem.write_to_path(path)
        return path

    @cached_property
    def client(self) -> Path:
        """The file with a client's certificate and key."""
        return self._certified("client")

    def fit(self, config: Mapping[str, str]) -> dict[str, str]:
        """Return a broker's settings with both listeners."""
        listeners = f",PASSWORD://127.0.0.1:{self.password_port},CERTIFICATE://127.0.0.1:{self.certificate_port}"
        added = {
            "listeners": config["listeners"] + listeners,
            "advertised.listeners": config["advertised.listeners"] + listeners,
            "listener.security.protocol.map": config["listener.security.protocol.map"]
            + ",PASSWORD:SASL_SSL,CERTIFICATE:SSL",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.password.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule required "
            f'user_{self.user}="{self.password}";',
            "listener.name.password.scram-sha-512.sasl.jaas.config": f"{_LOGIN}.scram.ScramLoginModule required;",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._certified("broker")),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority),
            "listener.name.certificate.ssl.client.auth": "required",
        }
        return {**config, **added}
