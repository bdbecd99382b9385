"""Certificates for suites: an authority, and what it signs."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOCALHOST = "127.0.0.1"


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """Keeps its files in `folder`: ca.crt, and NAME.crt with NAME.key for each certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = subject(f"authority of {folder.name}")
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        made = self.builder(self.name, self.key, days=30).add_extension(constraint, critical=True)
        self.file = self.write("ca.crt", made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
        """A certificate that holds for so many days, or ended so many days ago if they are negative."""
        now = datetime.now(UTC)
        begin, end = (now - timedelta(days=1), now + timedelta(days=days)) if days > 0 else (now + timedelta(days=days - 1), now + timedelta(days=days))
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def certificate(self, name: str, address: str = LOCALHOST, days: int = 30) -> tuple[Path, Path]:
        """The files of a certificate for an address, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address)), x509.DNSName("localhost")] if address == LOCALHOST else [x509.DNSName(address)])
        builder = self.builder(subject(address), key, days).add_extension(names, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        cert = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.write(f"{name}.crt", cert), self.write(f"{name}.key", secret)
