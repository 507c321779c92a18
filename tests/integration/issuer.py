"""An issuer of OAuth tokens: a key of RSA, made and used by openssl."""

import base64
import json
import os
import subprocess
import time

from mounted import check

NAME = "https://issuer.test"


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """Its key lies in DIRECTORY."""

    def __init__(self, directory, name):
        self.kid = name
        self.path = os.path.join(directory, name + ".pem")
        self.openssl("genrsa", "-out", self.path, "2048")

    def openssl(self, *arguments, stdin=None):
        done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True,
                              timeout=60, check=False)
        check(done.returncode == 0, done.stderr)
        return done.stdout

    def public(self):
        modulus = self.openssl("rsa", "-in", self.path, "-noout", "-modulus").decode().strip()
        return dict(kty="RSA", use="sig", kid=self.kid, e="AQAB",
                    n=encode(bytes.fromhex(modulus.split("=")[1])))

    def token(self, header=None, **claims):
        claims = {"iss": NAME, "aud": "kafka", "sub": "alice", "iat": int(time.time()),
                  "exp": int(time.time()) + 600, **claims}
        parts = [header or dict(alg="RS256", kid=self.kid), claims]
        text = ".".join(encode(json.dumps(p).encode()) for p in parts)
        signature = self.openssl("dgst", "-sha256", "-sign", self.path, stdin=text.encode())
        return text + "." + encode(signature)


def trust(path, *signers):
    """PATH becomes a JWKS file with their keys, in one step."""
    with open(path + ".new", "w") as file:
        json.dump(dict(keys=[s.public() for s in signers]), file)
    os.rename(path + ".new", path)
