"""The ways in which a client proves who it is over TLS, and a broker that takes them all.

Each way is one scenario: 100 messages written and read again as the user alice (or as nobody, where
the client has no certificate), another's topic refused, and then a wrong password, certificate,
ticket or token refused, with an error that says so.
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import issuer  # noqa: E402
from certificates import Authority  # noqa: E402
from kdc import Realm  # noqa: E402
from mounted import Broker, Skip, append, equal, free_port, read  # noqa: E402
from scenarios import numbered, plain, values  # noqa: E402

ALICE = 54321
PASSWORD = "correct horse, battery=staple"
SHOWN, HIDDEN = "shown", "hidden"  # topics of another

CONFIG = """[net]
listen = {listen}
[tls]
certificate = {keys}/broker.pem
key = {keys}/broker.key
ca = {keys}/ca.pem
ssl.principal.mapping.rules = RULE:^CN=([a-z]+)$/$1/, DEFAULT
[sasl]
mechanisms = SCRAM-SHA-256 SCRAM-SHA-512 PLAIN OAUTHBEARER{kerberos}
failed_authentication_delay_ms = 10
sasl.oauthbearer.jwks.file = {keys}/jwks.json
sasl.oauthbearer.expected.issuer = {issuer}
sasl.oauthbearer.expected.audience = kafka
{keytab}
[users]
alice = {alice}
"""

# Its consumer keeps what it is refused to itself; librdkafka is there as kcat and from Python.
LEFT_OUT = ["@confluentinc/kafka-javascript"]


class Site(Broker):
    """The broker, its certificates, passwords, issuer of tokens and, where it can be had, KDC."""

    def __init__(self, name="secure"):
        self.keys, self.strange = Authority("keys"), Authority("strange")
        self.keys.make("broker", "server")
        for authority in self.keys, self.strange:
            authority.make("alice")
        self.ports = {name: free_port() for name in ("tls", "mutual", "sasl")}
        try:
            self.realm, self.no_realm = Realm(), None
            self.realm.add("other/localhost", self.realm.path("other.keytab"))
            self.realm.add("alice", self.realm.path("alice.keytab"))
        except Skip as reason:
            self.realm, self.no_realm = None, str(reason)
        self.tokens()
        listen = "ssl://localhost:{tls} ssl://localhost:{mutual},client_authentication=required " \
                 "sasl_ssl://localhost:{sasl},advertised=localhost:{sasl}"
        super().__init__(name, config=CONFIG.format(
            listen=listen.format(**self.ports), keys=self.keys.directory, issuer=issuer.NAME, alice=ALICE,
            kerberos=" GSSAPI" if self.realm else "",
            keytab=f"sasl.kerberos.keytab = {self.realm.keytab}" if self.realm else ""),
            options=["-o", "allow_other", "--group.initial.rebalance.delay.ms", "0"],
            env=self.realm.env if self.realm else None)
        self.passwd("alice", PASSWORD)
        self.allow("login refused|similar messages")

    def tokens(self):
        signer, forger = (issuer.Signer(self.keys.directory, name) for name in ("issuer", "forger"))
        forger.kid = signer.kid
        issuer.trust(self.keys.path("jwks.json"), signer)
        for name, one in ("token", signer), ("forged", forger):
            with open(self.keys.path(name), "w") as file:
                file.write(one.token())

    def passwd(self, name, password):
        subprocess.run([os.environ["KQFS_BIN"], "passwd", "--data", self.data, name], check=True,
                       input=password.encode() + b"\n", capture_output=True, timeout=60)

    def start(self, *arguments):
        super().start(*arguments)
        os.chmod(self.mount, 0o755)
        for name, mode in (SHOWN, 0o711), (HIDDEN, 0o700):
            os.mkdir(self.path(name))
            append(self.path(name, "p0"), b"secret\n")
            os.chmod(self.path(name, "p0"), 0o600)
            os.chmod(self.path(name), mode)
        return self

    def end(self):
        if self.realm:
            self.realm.stop()

    def at(self, listener, protocol="SSL", **more):
        return {"bootstrap": f"localhost:{self.ports[listener]}", "protocol": protocol,
                "ca": self.keys.path("ca.pem"), **more}


def certificate(authority):
    """Alice's, by AUTHORITY."""
    return {"certificate": authority.path("alice.pem"), "key": authority.path("alice.key")}


# --- The scenario ---

DENIED = ["topicauthorization", "notauthorizedtoaccesstopic"]
LOGIN = ["authentic", "sasl"]
CERTIFICATE = ["certificate", "unknownca", "signature", "pkix", "tlsv1alert"]
# Those that keep the reason to themselves. That of a token comes as a challenge (RFC 7628), which
# franz-go does not expect; those of node take it for a success and find the connection closed.
SILENT = {"franz-go": ["unexpecteddatainoauthresponse"], "kafkajs": ["closedconnection"],
          "@platformatic/kafka": ["connectionclosed"]}


def make(bench, owner):
    """A topic and a group of that name, for OWNER or else for all: who is nobody makes neither."""
    bench.make()
    topic, group = bench.broker.path(bench.topic), bench.broker.path(".kqfs/groups", bench.topic)
    os.mkdir(group)
    for path, mode in (f"{topic}/p0", 0o600), (topic, 0o700), (group, 0o700):
        os.chmod(path, mode if owner else mode | mode >> 3 | mode >> 6)
        os.chown(path, owner or -1, -1)


def peer(bench, right, wrong, words, owner=ALICE):
    driver = bench.driver()
    driver.ask("secure", **right)
    make(bench, owner)
    wanted = numbered(0, 100)
    reading = {"partition": 0, "timeout_ms": 60000, "from": "earliest", "group": bench.topic}
    driver.ask("produce", topic=bench.topic, partition=0, messages=plain(wanted))
    equal(read(bench.path("p0")).splitlines(), wanted)
    equal(values(driver.ask("consume", topic=bench.topic, count=100, **reading)), wanted)
    there = driver.ask("topics")["topics"]
    equal([bench.topic in there, SHOWN in there, HIDDEN in there], [True, True, False])
    driver.refused(DENIED, "produce", topic=SHOWN, partition=0, messages=plain(wanted[:1]))
    driver.refused(DENIED, "consume", topic=SHOWN, count=1, **reading)
    equal(read(bench.broker.path(SHOWN, "p0")), b"secret\n")
    for one in wrong:
        driver.ask("secure", **one)
        driver.refused(words + SILENT.get(bench.client, []), "topics")


def tls(bench):
    """It is the client that refuses a broker whom it does not know."""
    site = bench.broker
    peer(bench, site.at("tls"), [site.at("tls") | {"ca": site.strange.path("ca.pem")}], CERTIFICATE, None)


def tls_with_a_client_certificate(bench):
    site = bench.broker
    peer(bench, site.at("mutual", **certificate(site.keys)),
         [site.at("mutual", **certificate(site.strange))], CERTIFICATE)


def password(mechanism):
    def scenario(bench):
        right = bench.broker.at("sasl", "SASL_SSL", mechanism=mechanism, user="alice", password=PASSWORD)
        peer(bench, right, [right | {"password": "wrong"}, right | {"user": "nobody-there"}], LOGIN)
    scenario.__name__ = f"{mechanism.replace('-', '_')}_over_tls"
    return scenario


def gssapi_over_tls(bench):
    """A ticket for another service is none for this one."""
    site = bench.broker
    if not site.realm:
        raise Skip(site.no_realm)
    right = site.at("sasl", "SASL_SSL", mechanism="GSSAPI", principal=f"alice@{site.realm.name}",
                    keytab=site.realm.path("alice.keytab"), service="kafka",
                    krb5=site.realm.path("krb5.conf"))
    peer(bench, right, [right | {"service": "other"}], LOGIN)


def oauthbearer_over_tls(bench):
    site = bench.broker
    right = site.at("sasl", "SASL_SSL", mechanism="OAUTHBEARER", token=site.keys.path("token"))
    peer(bench, right, [right | {"token": site.keys.path("forged")}], LOGIN)


gssapi_over_tls.__name__, oauthbearer_over_tls.__name__ = "GSSAPI_over_tls", "OAUTHBEARER_over_tls"
ALL = [tls, tls_with_a_client_certificate, *map(password, ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")),
       gssapi_over_tls, oauthbearer_over_tls]
