"""A realm of Kerberos of a test's own: a KDC on the loopback interface, with all its files in one
directory, and nothing of the host's."""

import os
import socket
import subprocess

import mounted

CONFIG = """[logging]
default = FILE:{directory}/kdc.log
[libdefaults]
default_realm = {realm}
dns_lookup_kdc = false
dns_lookup_realm = false
dns_canonicalize_hostname = false
rdns = false
ignore_acceptor_hostname = true
[realms]
{realm} = {{
    kdc = 127.0.0.1:{port}
}}
{other} = {{
    kdc = 127.0.0.1:{port}
}}
"""

KDC = """[kdcdefaults]
kdc_listen = 127.0.0.1:{port}
kdc_tcp_listen = 127.0.0.1:{port}
[realms]
{realm} = {{
    database_name = {directory}/principal
    key_stash_file = {directory}/stash
    acl_file = {directory}/acl
    max_life = 10h
}}
"""


class Realm:
    """Has a service kafka/localhost, whose key is in KEYTAB."""

    name = "KQFS.TEST"

    def __init__(self):
        mounted.need_feature("GSSAPI", "libgssapi")
        mounted.need("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
        self.directory = mounted.scratch("kdc")
        os.makedirs(self.directory, exist_ok=True)
        port = mounted.free_port()
        for name, text in ("krb5.conf", CONFIG), ("kdc.conf", KDC):
            with open(self.path(name), "w") as file:
                file.write(text.format(realm=self.name, other="OTHER.TEST", port=port,
                                       directory=self.directory))
        self.env = dict(KRB5_CONFIG=self.path("krb5.conf"), KRB5_KDC_PROFILE=self.path("kdc.conf"),
                        KRB5RCACHEDIR=self.directory)
        self.run("kdb5_util", "create", "-s", "-r", self.name, "-P", "master")
        self.keytab = self.path("kafka.keytab")
        self.add("kafka/localhost", self.keytab)
        self.process = subprocess.Popen(
            ["krb5kdc", "-n", "-r", self.name], env=self.environment(), stdin=subprocess.DEVNULL)
        mounted.until(lambda: self.serves(port) or self.process.poll() is not None,
                      "the KDC to serve")
        mounted.check(self.process.poll() is None, mounted.read(self.path("kdc.log")).decode())

    @staticmethod
    def serves(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def path(self, name):
        return os.path.join(self.directory, name)

    def environment(self, **more):
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        return {**os.environ, "PATH": path, **self.env, **more}

    def run(self, *command, **env):
        done = subprocess.run(command, env=self.environment(**env), capture_output=True, text=True,
                              timeout=60, check=False)
        mounted.check(done.returncode == 0, command, done.stdout, done.stderr)
        return done.stdout

    def add(self, principal, keytab):
        self.run("kadmin.local", "-r", self.name, "addprinc", "-randkey", principal)
        self.renew(principal, keytab)

    def renew(self, principal, keytab):
        """A new key, which KEYTAB has besides those that it has."""
        self.run("kadmin.local", "-r", self.name, "ktadd", "-k", keytab, principal)

    def ticket(self, principal):
        """The environment of one who has a ticket of PRINCIPAL."""
        name = principal.replace("/", "-")
        keytab, cache = self.path(name + ".keytab"), "FILE:" + self.path(name + ".cache")
        if not os.path.exists(keytab):
            self.add(principal, keytab)
        self.run("kinit", "-k", "-t", keytab, principal, KRB5CCNAME=cache)
        return self.environment(KRB5CCNAME=cache)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
