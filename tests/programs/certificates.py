"""Certificates that an authority of the mesh would never issue, signed by its key: python certificates.py ROOT ROOT_KEY IDENTITY DIRECTORY

Writes KIND.pem and KIND.key for each, and says their kinds, one a line; `honest` is as the authority makes them."""

import datetime
import ipaddress
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

root_file, key_file, identity, directory = sys.argv[1:]
root = x509.load_pem_x509_certificate(pathlib.Path(root_file).read_bytes())
root_key = serialization.load_pem_private_key(pathlib.Path(key_file).read_bytes(), None)
now = datetime.datetime.now(datetime.timezone.utc)
hour = datetime.timedelta(hours=1)
URI, DNS, IP = x509.UniformResourceIdentifier, x509.DNSName, x509.IPAddress
domain, workload = identity.removeprefix("spiffe://").split("/", 1)


def certificate(names, key=None, begins=-hour, ends=hour, usages=(Usage.CLIENT_AUTH,), authority=False, signer=None, issuer=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer or root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(signer or root_key, hashes.SHA256()), key


def behind_a_leaf():
    """A workload that signs for another."""
    leaf, key = certificate([URI(f"spiffe://{domain}/ns/shop/sa/thief")])
    forged, forged_key = certificate([URI(identity)], signer=key, issuer=x509.Name([]))
    return [forged, leaf], forged_key


kinds = {
    "honest": certificate([URI(identity)]),
    "two-identities": certificate([URI(identity), URI(f"spiffe://{domain}/ns/shop/sa/other")]),
    "no-identity": certificate([]),
    "dns-name": certificate([DNS(identity.removeprefix("spiffe://").replace("/", "."))]),
    "address": certificate([IP(ipaddress.ip_address("127.0.0.1"))]),
    "not-spiffe": certificate([URI(f"https://{domain}/{workload}")]),
    "another-domain": certificate([URI(f"spiffe://partner.example/{workload}")]),
    "subdomain": certificate([URI(f"spiffe://evil.{domain}/{workload}")]),
    "dot-segments": certificate([URI(f"spiffe://{domain}/ns/shop/sa/../sa/client")]),
    "encoded": certificate([URI(f"spiffe://{domain}/ns/shop/sa/%63lient")]),
    "query": certificate([URI(f"{identity}?as=admin")]),
    "port": certificate([URI(f"spiffe://{domain}:80/{workload}")]),
    "user": certificate([URI(f"spiffe://root@{domain}/{workload}")]),
    "trailing-slash": certificate([URI(f"{identity}/")]),
    "no-workload": certificate([URI(f"spiffe://{domain}")]),
    "very-long": certificate([URI(f"spiffe://{domain}/ns/shop/sa/" + "a" * 5000)]),
    "expired": certificate([URI(identity)], begins=-3 * hour, ends=-2 * hour),
    "not-yet": certificate([URI(identity)], begins=2 * hour, ends=3 * hour),
    "server-only": certificate([URI(identity)], usages=(Usage.SERVER_AUTH,)),
    "authority": certificate([URI(identity)], authority=True),
    "small-key": certificate([URI(identity)], key=rsa.generate_private_key(65537, 1024)),
    "behind-a-leaf": behind_a_leaf(),
}
for kind, (chain, key) in kinds.items():
    chain = chain if isinstance(chain, list) else [chain]
    encode = serialization.Encoding.PEM
    text = b"".join(each.public_bytes(encode) for each in chain)
    pathlib.Path(directory, f"{kind}.pem").write_bytes(text)
    private = key.private_bytes(encode, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pathlib.Path(directory, f"{kind}.key").write_bytes(private)
    print(kind)
