"""Certificates for suites: an authority, and what it signs."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCALHOST = "127.0.0.1"
SIGNS = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
    key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """Keeps its files in `folder`: ca.crt, and NAME.crt with NAME.key for each certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = subject(f"authority of {folder.name}")
        made = self.builder(self.name, self.key, days=30).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        made = made.add_extension(SIGNS, critical=True)
        self.file = self.write("ca.crt", made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def builder(self, name: x509.Name, key: Key, days: int, issuer: x509.Name | None = None) -> x509.CertificateBuilder:
        """A certificate that holds for so many days; if they are negative, it ended so many days ago."""
        now = datetime.now(UTC)
        end = now + timedelta(days=days)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer or self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(min(now, end) - timedelta(days=1)).not_valid_after(end)

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def certificate(self, name: str, host: str = "localhost", days: int = 30, key: Key | None = None) -> tuple[Path, Path]:
        """The files of a certificate and of its key. That of localhost holds for its address too."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host)]
        if host == "localhost":
            names.append(x509.IPAddress(ip_address(LOCALHOST)))
        builder = self.builder(subject(host), key, days)
        for extension in (
            x509.SubjectAlternativeName(names),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
        ):
            builder = builder.add_extension(extension, critical=False)
        return self.write_pair(name, builder.sign(self.key, hashes.SHA256()), key)

    def self_signed(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate of localhost that nobody but itself vouches for, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address(LOCALHOST))])
        builder = self.builder(subject("localhost"), key, days=30, issuer=subject("localhost"))
        return self.write_pair(name, builder.add_extension(names, critical=False).sign(key, hashes.SHA256()), key)

    def write_pair(self, name: str, cert: x509.Certificate, key: Key) -> tuple[Path, Path]:
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.write(f"{name}.crt", cert.public_bytes(serialization.Encoding.PEM)), self.write(f"{name}.key", secret)
