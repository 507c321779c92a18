#!/usr/bin/python3
# kqfs-test: timeout=300
"""Kerberos: a real KDC, and kcat with Cyrus SASL's GSSAPI."""

import atexit
import os
import subprocess

import mounted
from kdc import Realm
from mounted import *

ALICE, BOSS = 54321, 54322


def has_gssapi():
    text = subprocess.run(["kcat", "-X", "list"], capture_output=True, text=True, check=False).stdout
    return "sasl.kerberos.service.name" in text


class Secured(Broker):
    def __init__(self, name="b", settings=""):
        self.port = free_port()
        super().__init__(name, ["--listen", f"sasl_plaintext://127.0.0.1:{self.port},"
                                            f"advertised=localhost:{self.port}"],
                         config=f"""[sasl]
mechanisms = GSSAPI
sasl.kerberos.keytab = {realm.keytab}
{settings}
[users]
alice = {ALICE}
boss = {BOSS}
""", env=realm.env)

    def kcat(self, env, *arguments, stdin="", service="kafka"):
        return subprocess.run(
            ["kcat", "-b", f"localhost:{self.port}", "-X", "security.protocol=SASL_PLAINTEXT",
             "-X", "sasl.mechanism=GSSAPI", "-X", f"sasl.kerberos.service.name={service}",
             "-X", "sasl.kerberos.kinit.cmd=true", "-X", "message.timeout.ms=5000", *arguments],
            env=env, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def consume(broker, env, topic):
    done = broker.kcat(env, "-C", "-t", topic, "-e", "-q", "-m", "10")
    return done.stdout


def produce(broker, env, topic, text):
    return broker.kcat(env, "-P", "-t", topic, stdin=text).returncode == 0


def make(topic, text, uid):
    os.mkdir(broker.path(topic))
    append(broker.path(topic, "append"), text)
    os.chown(broker.path(topic, "p0"), uid, 0)
    os.chmod(broker.path(topic, "p0"), 0o600)


def test_a_ticket_gives_the_rights_of_the_user_of_that_name():
    make("hers", b"one\n", ALICE)
    make("his", b"two\n", BOSS)
    alice = realm.ticket("alice")
    equal(consume(broker, alice, "hers"), "one\n")
    check(produce(broker, alice, "hers", "more\n"))
    equal(consume(broker, alice, "hers"), "one\nmore\n")
    equal(consume(broker, alice, "his"), "")
    check(not produce(broker, alice, "his", "more\n"))


def test_an_instance_is_its_first_component():
    make("instance", b"three\n", ALICE)
    equal(consume(broker, realm.ticket("alice/host.test"), "instance"), "three\n")
    equal(consume(broker, realm.ticket("bob/host.test"), "instance"), "")


def test_without_a_ticket_nobody_gets_in():
    env = realm.environment(KRB5CCNAME="FILE:" + realm.path("none.cache"))
    done = broker.kcat(env, "-L", "-m", "3")
    check(done.returncode != 0, done.stdout)


def test_a_ticket_for_another_service_is_refused():
    realm.add("other/localhost", realm.path("other.keytab"))
    done = broker.kcat(realm.ticket("alice"), "-L", "-m", "3", service="other")
    check(done.returncode != 0, done.stdout)


def test_a_new_key_counts_at_once():
    realm.renew("kafka/localhost", realm.keytab)
    done = broker.kcat(realm.ticket("alice"), "-L", "-m", "5")
    equal(done.returncode, 0, done.stderr)


def test_rules_make_other_names():
    rules = r"sasl.kerberos.principal.to.local.rules = RULE:[1:$1](svc-.*)s/^svc-//, DEFAULT"
    with Secured("rules", rules) as other:
        os.mkdir(other.path("t"))
        append(other.path("t", "append"), b"four\n")
        os.chown(other.path("t", "p0"), ALICE, 0)
        os.chmod(other.path("t", "p0"), 0o600)
        equal(consume(other, realm.ticket("svc-alice"), "t"), "four\n")


def test_a_keytab_without_a_key_is_reported():
    other = Secured("nokey", "sasl.kerberos.principal = kafka/elsewhere@KQFS.TEST")
    status, said = other.fails_to_start()
    check(status != 0 and "no key for kafka/elsewhere@KQFS.TEST" in said, said)


try:
    need_root()
    need("kcat")
    if not has_gssapi():
        raise Skip("this kcat has no GSSAPI")
    realm = Realm()
    atexit.register(realm.stop)
    broker = Secured()
except Skip as reason:
    print(reason)
    raise SystemExit(77)
main(broker)
