"""How a client of the network says who it is: a certificate, PLAIN, a token, a ticket. SCRAM is in
scram.py, the issuer of tokens in issuer.py."""

import os
import socket
import ssl
import subprocess

from issuer import Signer, trust as write_jwks  # noqa: F401
from mounted import check, equal
from protocol import Client


class Connected(Client):
    """A client on a socket that somebody else has connected."""

    def __init__(self, connection, client_id="test"):
        self.socket = connection
        self.socket.settimeout(60)
        self.client_id, self.correlation = client_id, 0


class Authority:
    """Its own certificate is DIRECTORY/ca.pem; those that it makes are NAME.pem, NAME.key there. The
    broker's is `localhost`. For what is wrong with certificates see certificates.py."""

    def __init__(self, directory):
        self.directory = directory
        for name in "ca", "localhost":
            self.make(name)

    def path(self, name):
        return os.path.join(self.directory, name)

    def make(self, name):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                   "-nodes", "-keyout", self.path(name + ".key"), "-out", self.path(name + ".pem"),
                   "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-days", "2"]
        if name != "ca":
            command += ["-CA", self.path("ca.pem"), "-CAkey", self.path("ca.key")]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        check(done.returncode == 0, done.stderr)

    def connect(self, port, name=None):
        """A socket; NAME shows its certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.path("ca.pem"))
        if name:
            context.load_cert_chain(self.path(name + ".pem"), self.path(name + ".key"))
        plain = socket.create_connection(("127.0.0.1", port), 60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname="localhost")


# --- SASL ---

def say(client, mechanism, first):
    """Names the mechanism and sends the first token; returns the answer to that."""
    equal(client.ask("SaslHandshake", 1, mechanism=mechanism)["error_code"], 0)
    return client.ask("SaslAuthenticate", 2, auth_bytes=first)


def log_in_plain(client, name, password):
    return say(client, "PLAIN", f"\0{name}\0{password}".encode())


def log_in_bearer(client, token):
    return say(client, "OAUTHBEARER", f"n,,\1auth=Bearer {token}\1\1".encode())


def log_in_gssapi(client, gssapi, cache, name=""):
    """RFC 4752 with the ticket in CACHE, for the service kafka@localhost and no security layer;
    GSSAPI is the module of that name. NAME: whom to be, if it says so."""
    context = gssapi.SecurityContext(
        name=gssapi.Name("kafka@localhost", gssapi.NameType.hostbased_service),
        creds=gssapi.Credentials(usage="initiate", store=dict(ccache=cache)), usage="initiate",
        flags=(gssapi.RequirementFlag.mutual_authentication, gssapi.RequirementFlag.integrity))
    answer = say(client, "GSSAPI", context.step())
    while not context.complete:
        equal(answer["error_code"], 0, answer["error_message"])
        token = context.step(answer["auth_bytes"])
        answer = client.ask("SaslAuthenticate", 2, auth_bytes=token or b"")
    equal(answer["error_code"], 0, answer["error_message"])
    check(context.unwrap(answer["auth_bytes"]).message[0] & 1, "no security layer is offered")
    last = context.wrap(b"\1\0\0\0" + name.encode(), False).message
    return client.ask("SaslAuthenticate", 2, auth_bytes=last)
