"""A cluster's API server, with the part of its API that a drain uses: one node and its pods. It records each request."""

import base64
import datetime
import ipaddress
import json
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server import Server

# The Kubernetes verb of each HTTP method. A GET of one object is a get, and a GET of many is a list.
VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
PATH = re.compile(r"/api(?:s/[^/]+)?/v1(?:/namespaces/[^/]+)?/(?P<kind>\w+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>\w+))?")


class ApiServer:
    """One node, with whatever name is requested, and one pod on it, which is gone once it is evicted.

    `requests` has the resource and the verb of each request."""

    def __init__(self, directory: Path):
        self.requests, self.evicted = [], False
        certificate, key, authority = certificates()
        (directory / "certificate.pem").write_bytes(certificate)
        (directory / "key.pem").write_bytes(key)
        self.authority = base64.b64encode(authority).decode()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
        self.server = Server(self.serve, context)
        self.endpoint = self.server.endpoint

    def serve(self, method: str, path: str, _, __):
        status, content = self.answer(method, urlsplit(path).path)
        return status, {}, json.dumps(content).encode()

    def answer(self, method: str, path: str):
        found = PATH.fullmatch(path)
        resource = found["kind"] + (f"/{found['sub']}" if found["sub"] else "")
        verb = VERBS.get(method) or ("get" if found["name"] else "list")
        self.requests.append((resource, verb))
        match resource, verb:
            case "nodes", "get":
                return 200, {
                    "metadata": {"name": found["name"]},
                    "spec": {"providerID": f"aws:///eu-west-1a/{found['name'].split('.')[0]}"},
                    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
                }
            case "pods", "list":
                pod = {
                    "metadata": {
                        "namespace": "shop", "name": "web-0", "uid": "1",
                        "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": True}],
                    },
                    "spec": {}, "status": {"phase": "Running"},
                }
                return 200, {"kind": "PodList", "metadata": {}, "items": [] if self.evicted else [pod]}
            case "pods/eviction", "create":
                self.evicted = True
                return 201, {"kind": "Status", "code": 201}
        return 200, {}


def certificates() -> tuple:
    """A certificate for the loopback address, its key, and the certificate of its authority, all as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority, authority_key = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)

    def signed(subject, public_key, extensions):
        builder = x509.CertificateBuilder(authority, subject, public_key, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(authority_key, hashes.SHA256())

    root = signed(authority, authority_key.public_key(), [(x509.BasicConstraints(True, None), True)])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    own = signed(subject, key.public_key(), [(names, False)])
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return own.public_bytes(pem), private, root.public_bytes(pem)
