"""The client's side of SCRAM, and a login by it."""

import base64
import hashlib
import hmac
import re

from mounted import equal
from protocol import Closed


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


class Scram:
    def __init__(self, password, hash="sha256"):
        self.password, self.hash = password.encode(), hash

    def first(self, name="alice"):
        self.bare = f"n={name},r=clientnonce"
        return ("n,," + self.bare).encode()

    def mac(self, key, text):
        return hmac.new(key, text, self.hash).digest()

    def salt(self, server):
        """What SERVER, its first message, makes of the password."""
        nonce, salt, count = re.fullmatch(r"r=([^,]+),s=([^,]+),i=(\d+)", server).groups()
        return nonce, hashlib.pbkdf2_hmac(self.hash, self.password, base64.b64decode(salt), int(count))

    def prove(self, salted, server, without):
        """The proof of the message WITHOUT it; what the broker has to prove is kept."""
        key = self.mac(salted, b"Client Key")
        message = f"{self.bare},{server},{without}".encode()
        self.signature = b"v=" + base64.b64encode(self.mac(self.mac(salted, b"Server Key"), message))
        return xor(key, self.mac(hashlib.new(self.hash, key).digest(), message))

    def final(self, answer):
        server = answer.decode()
        nonce, salted = self.salt(server)
        without = f"c=biws,r={nonce}"
        proof = self.prove(salted, server, without)
        return f"{without},p={base64.b64encode(proof).decode()}".encode()


def log_in(client, password, name="alice", version=2):
    """The broker's last answer."""
    scram = Scram(password)
    equal(client.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-256")["error_code"], 0)
    answer = client.ask("SaslAuthenticate", version, auth_bytes=scram.first(name))
    equal(answer["error_code"], 0)
    answer = client.ask("SaslAuthenticate", version, auth_bytes=scram.final(answer["auth_bytes"]))
    if answer["error_code"] == 0:
        equal(answer["auth_bytes"], scram.signature, "the broker proves that it knew the password")
    return answer


def closed(client):
    try:
        client.read(1)
    except Closed:
        return True
    return False
