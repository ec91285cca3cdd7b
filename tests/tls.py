"""Real TLS in front of private servers that have none: certificates of an authority of the test's own, and a front that
takes connections with TLS and passes them on without."""

import ipaddress
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from etl.lab.proxy import Relay

HANDSHAKE = b"\x16"  # what TLS begins with, and neither Redis nor Postgres does
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")  # Postgres is asked first whether it has TLS


class Authority:
    """A CA, whose certificate is in the file `ca`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        self.ca = folder / "ca.pem"
        own = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.ca.write_bytes(_pem(own.sign(self._key, hashes.SHA256())))

    def certificate(self, *hosts: str) -> Path:
        """For a server of these names and addresses; its key is in the file, too."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = (
            self._builder(name, key)
            .add_extension(names, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._folder / f"{'-'.join(hosts)}.pem"
        path.write_bytes(_pem(signed) + secret)
        return path

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


class TlsFront(Relay):
    """Passes on to `server` what is said over TLS. Who comes without, as a watching sentinel does, is let through as
    well, and not counted: `secured` counts the others."""

    def __init__(self, server: int | Path, certificate: Path) -> None:
        super().__init__(server)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self.secured = 0

    def welcomed(self, client: socket.socket) -> socket.socket:
        if client.recv(len(SSL_REQUEST), socket.MSG_PEEK) == SSL_REQUEST:
            client.recv(len(SSL_REQUEST))
            client.sendall(b"S")
        if client.recv(1, socket.MSG_PEEK) != HANDSHAKE:
            return client
        secure = self._context.wrap_socket(client, server_side=True)
        self.secured += 1
        return secure
