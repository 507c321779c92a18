#!/usr/bin/python3
# kqfs-test: timeout=600
"""kafka-acls is setfacl and getfacl by other names, and kafka-configs keeps passwords. The tools run
one after the other in one JVM (clients/java/Tools.java)."""

import os
import pwd
import re

import kafkanode
import mounted
from kafkatools import Toolbox, has
from mounted import *

APP, OTHER = "games", "man"  # users that every Debian has
PASSWORD = "correct-horse"
ACLS, CONFIG, CONSUMER = "AclCommand", "kafka.admin.ConfigCommand", "consumer.ConsoleConsumer"
address, secured = (f"127.0.0.1:{free_port()}" for _ in range(2))
broker = Broker(options=["-o", "allow_other", "--group.initial.rebalance.delay.ms", "0", "--listen",
                         f"plaintext://{address} sasl_plaintext://{secured}"],
                config="[sasl]\nfailed_authentication_delay_ms = 10\n")
toolbox = Toolbox()


def acls(*arguments, **more):
    return toolbox.run(ACLS, "--bootstrap-server", address, *arguments, **more)


def configs(name, *arguments, **more):
    return toolbox.run(CONFIG, "--bootstrap-server", address, *arguments, "--entity-type", "users",
                       "--entity-name", name, **more)


def listed(*resource):
    """The operations of each user, as kafka-acls --list has them."""
    found = re.findall(r"\(principal=User:(\S+), host=\*, operation=(\w+), permissionType=ALLOW\)",
                       acls("--list", *resource))
    return {user: {o for u, o in found if u == user} for user, _ in found}


def facl(path, default=False):
    out = sh(f"getfacl -pcE{'d' if default else 'a'} {path}").decode().split()
    return {line.removeprefix("default:") for line in out}


def private_topic(name):
    os.chmod(broker.mount, 0o755)
    path = broker.topic(name)
    append(f"{path}/p0", "one\n")
    append(f"{path}/p1", "", os.O_CREAT)
    sh(f"chmod 0600 {path}/p*; chmod 0700 {path}")
    return path


def test_an_add_is_a_setfacl_that_getfacl_shows():
    path = private_topic("orders")
    acls("--add", "--allow-principal", f"User:{APP}", "--operation", "Read", "--topic", "orders")
    for partition in "p0", "p1":
        equal(facl(f"{path}/{partition}"),
              {"user::rw-", f"user:{APP}:r--", "group::---", "mask::r--", "other::---"})
    equal(facl(path), {"user::rwx", f"user:{APP}:--x", "group::---", "mask::--x", "other::---"})
    check(f"user:{APP}:r--" in facl(path, True), "partitions to come", facl(path, True))
    equal(listed("--topic", "orders")[APP], {"READ"})
    user = pwd.getpwnam(APP)
    equal(as_user((user.pw_uid, user.pw_gid, []), read, f"{path}/p0"), b"one\n")


def test_a_setfacl_is_listed_in_the_normal_form():
    path = private_topic("by-setfacl")
    sh(f"setfacl -m u:{APP}:rw,u:{OTHER}:r {path}/p0 {path}/p1; setfacl -m u:{APP}:x,u:{OTHER}:x {path}")
    found = listed("--topic", "by-setfacl")
    equal((found[APP], found[OTHER]), ({"READ", "WRITE"}, {"READ"}))
    sh(f"setfacl -x u:{OTHER} {path}/p1")
    equal(listed("--topic", "by-setfacl")[OTHER], {"DESCRIBE"})
    equal(set(listed("--topic", "by-setfacl", "--principal", f"User:{OTHER}")), {OTHER})


def test_what_producers_and_consumers_need():
    path = private_topic("both")
    acls("--add", "--producer", "--allow-principal", f"User:{APP}", "--topic", "both")
    equal(listed("--topic", "both")[APP], {"WRITE"})
    os.mkdir(broker.path(".kqfs/groups/readers"))
    acls("--add", "--consumer", "--allow-principal", f"User:{OTHER}", "--topic", "both", "--group",
         "readers")
    equal(listed("--topic", "both")[OTHER], {"READ"})
    equal(listed("--group", "readers")[OTHER], {"READ"})
    check(f"user:{OTHER}:rwx" in facl(broker.path(".kqfs/groups/readers")))
    acls("--remove", "--force", "--producer", "--allow-principal", f"User:{APP}", "--topic", "both")
    found = listed("--topic", "both")
    check(APP not in found and found[OTHER] == {"READ"}, found)
    acls("--remove", "--force", "--consumer", "--allow-principal", f"User:{OTHER}", "--topic", "both",
         "--group", "readers")
    check(OTHER not in listed("--group", "readers"))
    equal(facl(f"{path}/p0"), {"user::rw-", "group::---", "other::---"})


def test_what_unix_cannot_say_is_refused_and_changes_nothing():
    path = private_topic("refused")
    allow = ["--allow-principal", f"User:{APP}"]
    for what, said in (
            ([*allow, "--operation", "All", "--topic", "refused"], "name the operations"),
            ([*allow, "--operation", "Delete", "--topic", "refused"], "the owner's"),
            ([*allow, "--operation", "Read", "--topic", "*"], "name each"),
            ([*allow, "--operation", "Read", "--topic", "absent"], "make it first"),
            ([*allow, "--operation", "Read", "--topic", "ref", "--resource-pattern-type", "prefixed"],
             "must be LITERAL"),
            ([*allow, "--operation", "Read", "--topic", "refused", "--allow-host", "10.0.0.1"], "not hosts"),
            (["--deny-principal", f"User:{APP}", "--operation", "Read", "--topic", "refused"],
             "take a right away"),
            (["--allow-principal", "User:no-such-user", "--operation", "Read", "--topic", "refused"],
             "no user of the principal's name")):
        before = facl(path), facl(f"{path}/p0")
        acls("--add", *what, status=1, complaint=rf"InvalidRequestException: .*{said}")
        equal((facl(path), facl(f"{path}/p0")), before, what)


def test_a_password_of_kafka_configs_opens_the_door_until_it_is_taken_away():
    path = private_topic("guarded")
    sh(f"setfacl -m u:{APP}:r {path}/p*; setfacl -m u:{APP}:x {path}")
    login = os.path.join(test_directory(), "client.properties")

    def consume(password, mechanism="SCRAM-SHA-256", **more):
        with open(login, "w") as file:
            file.write("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=" + mechanism +
                       "\nsasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule "
                       f'required username="{APP}" password="{password}";\n')
        return toolbox.run(CONSUMER, "--bootstrap-server", secured, "--topic", "guarded",
                           "--partition", 0, "--offset", "earliest", "--max-messages", 1,
                           "--timeout-ms", 60000, "--consumer.config", login, timeout=90, **more)

    refused = dict(complaint="SaslAuthenticationException: Authentication failed")
    consume(PASSWORD, **refused)
    configs(APP, "--alter", "--add-config", f"SCRAM-SHA-256=[iterations=8192,password={PASSWORD}]")
    configs(APP, "--alter", "--add-config", f"SCRAM-SHA-512=[password={PASSWORD}]")
    text = configs(APP, "--describe")
    has(text, "SCRAM-SHA-256=iterations=8192", "SCRAM-SHA-512=iterations=4096")
    check(PASSWORD not in text, text)
    for mechanism in "SCRAM-SHA-256", "SCRAM-SHA-512":
        equal(consume(PASSWORD, mechanism, complaint="Processed a total of 1"), "one\n")
    consume("wrong", **refused)
    configs(APP, "--alter", "--delete-config", "SCRAM-SHA-256")
    has(configs(APP, "--describe"), "SCRAM-SHA-512=")
    consume(PASSWORD, **refused)
    configs(APP, "--alter", "--delete-config", "SCRAM-SHA-512")
    check("SCRAM" not in configs(APP, "--describe"))
    configs(APP, "--alter", "--delete-config", "SCRAM-SHA-512", status=1,
            complaint="ResourceNotFoundException")
    configs(APP, "--alter", "--add-config", f"SCRAM-SHA-256=[iterations=1,password={PASSWORD}]",
            status=1, complaint="(?i)iterations")


if __name__ == "__main__":
    try:
        need_root()
        need("setfacl", "getfacl")
        kafkanode.folder()
    except Skip as reason:
        print(f"skipped: {reason}")
        raise SystemExit(77)
    broker.allow("login refused")
    mounted.main(broker)
