"""Keys and certificates of a test's own, by openssl(1)."""

import os
import subprocess

from mounted import check, scratch

CA = """[ca]
default_ca = it
[it]
database = {directory}/index.txt
serial = {directory}/serial
new_certs_dir = {directory}
certificate = {directory}/ca.pem
private_key = {directory}/ca.key
default_md = sha256
default_days = 2
default_crl_days = 2
policy = policy
unique_subject = no
[policy]
commonName = supplied
[client]
basicConstraints = CA:false
extendedKeyUsage = clientAuth
[server]
basicConstraints = CA:false
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
"""
PAST, PRESENT, FUTURE = (("20200101000000Z", "20210101000000Z"), ("20200101000000Z", "20980101000000Z"),
                         ("20970101000000Z", "20980101000000Z"))


class Authority:
    def __init__(self, name):
        self.directory = scratch(name)
        for file, text in (("index.txt", ""), ("serial", "01\n"),
                           ("ca.cnf", CA.format(directory=self.directory))):
            with open(self.path(file), "w") as opened:
                opened.write(text)
        self.request("ca", "-x509", "-days", "2")

    def path(self, name):
        return os.path.join(self.directory, name)

    def openssl(self, *arguments):
        done = subprocess.run(["openssl", *arguments], cwd=self.directory, capture_output=True, timeout=60)
        check(done.returncode == 0, arguments, done.stderr.decode())

    def request(self, name, *more, key=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
        self.openssl("req", "-newkey", *key, "-nodes", "-keyout", f"{name}.key", "-out",
                     f"{name}.pem" if more else f"{name}.csr", "-subj", f"/CN={name}", *more)

    def make(self, name, usage="client", dates=PRESENT, **more):
        self.request(name, **more)
        self.openssl("ca", "-batch", "-notext", "-config", "ca.cnf", "-in", f"{name}.csr", "-out",
                     f"{name}.pem", "-extensions", usage, "-startdate", dates[0], "-enddate", dates[1])
        return self

    def revoke(self, *names, to):
        for name in names:
            self.openssl("ca", "-config", "ca.cnf", "-revoke", f"{name}.pem")
        self.openssl("ca", "-config", "ca.cnf", "-gencrl", "-out", to)
