#!/usr/bin/python3
"""Kafka's ACLs are POSIX ACLs: what CreateAcls adds getfacl shows, what setfacl adds DescribeAcls
lists, and what Unix cannot say is refused. Changes of rights count for the next request of an open
connection, and for a Fetch that waits."""

import os
import pwd
import re
import subprocess

from mounted import *
from protocol import *

need_root()
need("setfacl", "getfacl")
broker = Server("b", ["-o", "allow_other", "--group.initial.rebalance.delay.ms", "0"])
APP, OTHER_APP = "games", "man"  # users that every Debian has
UID = pwd.getpwnam(APP).pw_uid
WHO = (UID, pwd.getpwnam(APP).pw_gid, [])
ANY, TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID = 1, 2, 3, 4, 5
OPERATIONS = ["UNKNOWN", "ANY", "ALL", "READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE",
              "CLUSTER_ACTION", "DESCRIBE_CONFIGS", "ALTER_CONFIGS", "IDEMPOTENT_WRITE"]
DENY, ALLOW = 2, 3
LITERAL, PREFIXED = 3, 4


def binding(operation, name, user=APP, kind=TOPIC, **more):
    return dict(resource_type=kind, resource_name=name, resource_pattern_type=LITERAL,
                principal=f"User:{user}", host="*", operation=OPERATIONS.index(operation),
                permission_type=ALLOW) | more


def create(client, *bindings, version=3):
    results = client.ask("CreateAcls", version, creations=bindings)["results"]
    return [(ERRORS[r["error_code"]], r["error_message"]) for r in results]


def allow(client, *bindings, version=3):
    equal(create(client, *bindings, version=version), [("NONE", None)] * len(bindings))


def filtered(name=None, user=None, kind=ANY, operation="ANY", pattern=LITERAL, permission=1, host=None):
    return dict(resource_type_filter=kind, resource_name_filter=name, pattern_type_filter=pattern,
                principal_filter=user and f"User:{user}", host_filter=host,
                operation=OPERATIONS.index(operation), permission_type=permission)


def described(client, version=3, **wanted):
    answer = client.ask("DescribeAcls", version, **filtered(**wanted))
    equal(ERRORS[answer["error_code"]], "NONE", answer)
    out = {}
    for resource in answer["resources"]:
        for acl in resource["acls"]:
            equal((acl["host"], acl["permission_type"], resource["pattern_type"]), ("*", ALLOW, LITERAL))
            key = resource["resource_name"], acl["principal"].removeprefix("User:")
            out.setdefault(key, set()).add(OPERATIONS[acl["operation"]])
    return out


def of(client, name, user=APP, **more):
    return described(client, name=name, user=user, **more).get((name, user), set())


def delete(client, version=3, **wanted):
    (answer,) = client.ask("DeleteAcls", version, filters=[filtered(**wanted)])["filter_results"]
    equal(ERRORS[answer["error_code"]], "NONE", answer)
    return {(a["resource_name"], a["principal"].removeprefix("User:"), OPERATIONS[a["operation"]],
             ERRORS[a["error_code"]]) for a in answer["matching_acls"]}


def facl(path, default=False):
    out = sh(f"getfacl -pcE{'d' if default else 'a'} {path}").decode().split()
    return {line.removeprefix("default:") for line in out}


def private_topic(name, partitions=2):
    path = broker.topic(name)
    for number in range(1, partitions):
        sh(f"touch {path}/p{number}")
    sh(f"chmod 0600 {path}/p*; chmod 0700 {path}")
    return path


def as_app(function, *arguments, who=WHO):
    reachable()
    def run():
        with broker.client() as client:
            return function(client, *arguments)
    return as_user(who, run)


def fetch_error(client, name, partition=0):
    answer = client.ask("Fetch", 11, max_wait_ms=0, min_bytes=0, max_bytes=1 << 20, session_epoch=-1, topics=[
        dict(topic=name, partitions=[dict(partition=partition, fetch_offset=0, partition_max_bytes=1000)])])
    return ERRORS[answer["responses"][0]["partitions"][0]["error_code"]]


def produce_error(client, name, partition=0):
    answer = produce(client, name, batch([Record(b"x")]), partition)
    return ERRORS[answer["error_code"]]


def reachable():
    try:
        as_user(WHO, os.stat, broker.directory)
    except OSError:
        raise Skip(f"other users do not reach {broker.directory}")


def test_read_is_a_setfacl_of_partitions_directory_and_what_is_to_come():
    path = private_topic("read")
    equal(as_app(fetch_error, "read"), "TOPIC_AUTHORIZATION_FAILED")
    with broker.client() as client:
        allow(client, binding("READ", "read"))
        equal(facl(f"{path}/p0"), {"user::rw-", f"user:{APP}:r--", "group::---", "mask::r--", "other::---"})
        equal(facl(f"{path}/p1"), facl(f"{path}/p0"))
        equal(facl(path), {"user::rwx", f"user:{APP}:--x", "group::---", "mask::--x", "other::---"})
        check(f"user:{APP}:r--" in facl(path, True), facl(path, True))
        sh(f"touch {path}/p2")
        check(f"user:{APP}:r--" in facl(f"{path}/p2"), "a new partition", facl(f"{path}/p2"))
        equal(of(client, "read"), {"READ"})
    equal(as_app(fetch_error, "read"), "NONE")
    equal(as_app(produce_error, "read"), "TOPIC_AUTHORIZATION_FAILED")
    as_user(WHO, read, f"{path}/p0")


def test_a_setfacl_is_listed():
    path = private_topic("listed")
    sh(f"setfacl -m u:{APP}:rw {path}/p0 {path}/p1; setfacl -m u:{APP}:x {path}")
    for version in (1, 2, 3):
        with broker.client() as client:
            equal(of(client, "listed", version=version), {"READ", "WRITE"})
    sh(f"setfacl -m u:{APP}:w {path}/p1")
    with broker.client() as client:
        equal(of(client, "listed"), {"WRITE"}, "what all partitions grant")
        sh(f"setfacl -x u:{APP} {path}/p1")
        equal(of(client, "listed"), {"DESCRIBE"}, "x alone")
        sh(f"setfacl -x u:{APP} {path}")
        equal(of(client, "listed"), set(), "without x nothing else counts")
        equal(of(client, "listed", "root"), {"READ", "WRITE", "DESCRIBE_CONFIGS", "ALTER"}, "the owner")
        equal(of(client, "listed", kind=GROUP), set())


def test_what_the_user_has_by_its_group_stays():
    path = private_topic("union", 1)
    sh(f"chgrp {APP} {path}/p0 {path}; chmod 0660 {path}/p0; chmod 0710 {path}")
    with broker.client() as client:
        allow(client, binding("READ", "union"))
        check(f"user:{APP}:rw-" in facl(f"{path}/p0"), facl(f"{path}/p0"))
        equal(delete(client, name="union", user=APP, operation="READ"), {("union", APP, "READ", "NONE")})
    equal(as_app(produce_error, "union"), "NONE")


def test_a_mask_that_grows_gives_nobody_else_more():
    path = private_topic("mask", 1)
    sh(f"setfacl -m u:{OTHER_APP}:rw,m:r {path}/p0; setfacl -m u:{OTHER_APP}:x {path}")
    with broker.client() as client:
        equal(of(client, "mask", OTHER_APP), {"READ"})
        allow(client, binding("WRITE", "mask"))
        equal((of(client, "mask"), of(client, "mask", OTHER_APP)), ({"WRITE"}, {"READ"}))


def test_describe_and_create_beside_others_are_not_listed():
    private_topic("beside")
    with broker.client() as client:
        allow(client, *[binding(o, "beside") for o in ("WRITE", "DESCRIBE", "CREATE")],
              binding("IDEMPOTENT_WRITE", "kafka-cluster", kind=CLUSTER))
        equal(of(client, "beside"), {"WRITE"})
        allow(client, binding("DESCRIBE_CONFIGS", "beside"))
        equal(of(client, "beside"), {"WRITE", "DESCRIBE_CONFIGS"})


def test_deleting_leaves_other_grants():
    path = private_topic("leaves")
    with broker.client() as client:
        allow(client, *[binding(o, "leaves", u) for o in ("READ", "WRITE") for u in (APP, OTHER_APP)])
        equal(delete(client, name="leaves", user=APP, operation="WRITE"), {("leaves", APP, "WRITE", "NONE")})
        equal((of(client, "leaves"), of(client, "leaves", OTHER_APP)), ({"READ"}, {"READ", "WRITE"}))
        equal(delete(client, name="leaves", user=APP), {("leaves", APP, "READ", "NONE")})
        equal(delete(client, name="leaves", user=APP), set())
        check(APP not in str(facl(path)) + str(facl(f"{path}/p0")) + str(facl(path, True)))
        equal(of(client, "leaves", OTHER_APP), {"READ", "WRITE"})
        delete(client, name="leaves", user=OTHER_APP)
        equal(facl(f"{path}/p0"), {"user::rw-", "group::---", "other::---"})
    equal(as_app(fetch_error, "leaves"), "TOPIC_AUTHORIZATION_FAILED")


def test_everybody():
    path = private_topic("everybody", 1)
    with broker.client() as client:
        allow(client, binding("WRITE", "everybody"), binding("READ", "everybody", "*"))
        equal(described(client, name="everybody"),
              {("everybody", "*"): {"READ"}, ("everybody", APP): {"READ", "WRITE"},
               ("everybody", "root"): {"READ", "WRITE", "DESCRIBE_CONFIGS", "ALTER"}})
        equal(facl(f"{path}/p0"), {"user::rw-", f"user:{APP}:rw-", "group::r--", "mask::rw-", "other::r--"})
        delete(client, name="everybody", user="*")
        equal(facl(f"{path}/p0"), {"user::rw-", f"user:{APP}:rw-", "group::---", "mask::rw-", "other::---"})
        equal(of(client, "everybody"), {"READ", "WRITE"}, "who is named keeps it")


def test_what_unix_cannot_say_is_refused():
    path = private_topic("refused", 1)
    before = facl(path), facl(f"{path}/p0")
    bad = [binding("READ", "refused", permission_type=DENY), binding("READ", "refused", host="10.0.0.1"),
           binding("READ", "ref", resource_pattern_type=PREFIXED), binding("READ", "*"),
           binding("ALL", "refused"), binding("READ", "absent"), binding("READ", "refused", "no-such-user"),
           binding("DELETE", "refused"), binding("ALTER_CONFIGS", "refused"), binding("READ", "g", kind=GROUP),
           binding("READ", "t", kind=TRANSACTIONAL_ID), binding("ALTER", "kafka-cluster", kind=CLUSTER),
           binding("READ", "refused", principal="Group:games"), binding("READ", "refused", principal=""),
           binding("DESCRIBE", "cluster", kind=CLUSTER), binding("READ", "refused", kind=9)]
    with broker.client() as client:
        results = create(client, *bad)
        for asked, (code, message) in zip(bad, results):
            equal(code, "INVALID_REQUEST", asked)
            check(message and len(message) > 20, asked, message)
        equal(described(client, name="refused", permission=DENY), {})
        equal(described(client, name="refused", pattern=PREFIXED), {})
        equal(described(client, name="refused", host="10.0.0.1"), {})
        answer = client.ask("DescribeAcls", 3, **filtered(pattern=0))
        equal(ERRORS[answer["error_code"]], "INVALID_REQUEST")
    equal((facl(path), facl(f"{path}/p0")), before)


def test_only_the_owner_changes_them_and_who_may_look_lists_them():
    path = private_topic("owners")
    with broker.client() as client:
        allow(client, binding("READ", "owners"))
    equal([c for c, _ in as_app(create, binding("WRITE", "owners"))], ["TOPIC_AUTHORIZATION_FAILED"])
    equal(as_app(of, "owners"), {"READ"})
    equal(as_app(lambda c: delete(c, name="owners", user=APP)),
          {("owners", APP, "READ", "TOPIC_AUTHORIZATION_FAILED")})
    stranger = (2002, 3003, [])
    equal(as_app(of, "owners", who=stranger), set())
    sh(f"chown {APP} {path}/p0 {path}")
    equal([c for c, _ in as_app(create, binding("WRITE", "owners", OTHER_APP))],
          ["TOPIC_AUTHORIZATION_FAILED"], "p1 is another's")
    check(OTHER_APP not in str(facl(f"{path}/p0")), "all or nothing", facl(f"{path}/p0"))
    sh(f"chown {APP} {path}/p1")
    equal([c for c, _ in as_app(create, binding("WRITE", "owners", OTHER_APP))], ["NONE"])


def join(client, group="g"):
    answer = client.ask("JoinGroup", 3, group_id=group, session_timeout_ms=10000,
                        rebalance_timeout_ms=10000, member_id="", protocol_type="consumer",
                        protocols=[dict(name="range", metadata=b"\0\0\0\0\0\0\0\0\0\0")])
    if not answer["error_code"]:
        client.ask("LeaveGroup", 2, group_id=group, member_id=answer["member_id"])
    return ERRORS[answer["error_code"]]


def test_groups():
    with broker.client() as client:
        equal(join(client, "acl-group"), "NONE")
    group = broker.path(".kqfs/groups/acl-group")
    equal(oct(os.stat(group).st_mode & 0o7777), "0o1770" if os.stat(group).st_mode & 0o1000 else "0o770")
    equal(as_app(join, "acl-group"), "GROUP_AUTHORIZATION_FAILED")
    with broker.client() as client:
        allow(client, binding("READ", "acl-group", kind=GROUP))
        check(f"user:{APP}:rwx" in facl(group), facl(group))
        equal(of(client, "acl-group", kind=GROUP), {"READ"})
        equal(of(client, "acl-group", "root", kind=GROUP), {"READ"})
    equal(as_app(join, "acl-group"), "NONE")
    with broker.client() as client:
        equal(delete(client, name="acl-group", kind=GROUP, user=APP), {("acl-group", APP, "READ", "NONE")})
        sh(f"setfacl -m u:{APP}:rx {group}")
        equal(of(client, "acl-group", kind=GROUP), {"DESCRIBE"})
    equal(as_app(join, "acl-group"), "GROUP_AUTHORIZATION_FAILED")


def test_the_cluster():
    sh(f"chmod 1755 {broker.mount}")
    make = lambda c: ERRORS[c.ask("CreateTopics", 7, timeout_ms=9000, topics=[
        dict(name="made", num_partitions=1, replication_factor=1)])["topics"][0]["error_code"]]
    equal(as_app(make) in ("TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"), True)
    with broker.client() as client:
        allow(client, binding("CREATE", "kafka-cluster", kind=CLUSTER))
        equal(of(client, "kafka-cluster", kind=CLUSTER), {"CREATE", "DESCRIBE"})
    equal(as_app(make), "NONE")
    with broker.client() as client:
        delete(client, name="kafka-cluster", kind=CLUSTER, user=APP)
    check(APP not in str(facl(broker.mount)), facl(broker.mount))


def test_a_change_of_rights_counts_for_the_next_request_of_an_open_connection():
    path = private_topic("next", 1)
    def run(reader, writer):
        with broker.client() as client:
            out = []
            for _ in range(4):
                out.append((fetch_error(client, "next"), produce_error(client, "next")))
                os.write(writer, b"x")
                os.read(reader, 1)
            return out
    up, down = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for change in (f"setfacl -m u:{APP}:r {path}/p0; setfacl -m u:{APP}:x {path}",
                           f"chmod 0666 {path}/p0; setfacl -b {path}/p0; chmod 0666 {path}/p0",
                           f"chmod 0700 {path}", "true"):
                os.read(up[0], 1)
                subprocess.run(change, shell=True, check=True)
                os.write(down[1], b"x")
        finally:
            os._exit(0)
    answers = as_user(WHO, run, down[0], up[1])
    os.waitpid(pid, 0)
    no = "TOPIC_AUTHORIZATION_FAILED"
    equal(answers, [(no, no), ("NONE", no), ("NONE", "NONE"), (no, no)])


def test_a_fetch_that_waits_gives_nothing_to_one_who_has_lost_the_right():
    path = private_topic("parked", 1)
    append(f"{path}/p0", lines(1))
    sh(f"setfacl -m u:{APP}:r {path}/p0; setfacl -m u:{APP}:x {path}")
    def run(writer):
        with broker.client() as client:
            sent = client.send("Fetch", 11, max_wait_ms=30000, min_bytes=1000, max_bytes=1 << 20,
                               session_epoch=-1, topics=[dict(topic="parked", partitions=[
                                   dict(partition=0, fetch_offset=0, partition_max_bytes=100000)])])
            os.write(writer, b"x")
            (part,) = client.receive(sent)["responses"][0]["partitions"]
            return ERRORS[part["error_code"]], part["records"] or b""
    up = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(up[0], 1)
            with broker.client() as client:  # the same loop may serve both: the Fetch came first
                client.ask("ApiVersions", 0)
            subprocess.run(f"setfacl -x u:{APP} {path}/p0", shell=True, check=True)
            append(f"{path}/p0", lines(100, width=100))
        finally:
            os._exit(0)
    error, data = as_user(WHO, run, up[1])
    os.waitpid(pid, 0)
    equal((error, len(data)), ("TOPIC_AUTHORIZATION_FAILED", 0))


def test_grants_and_chmod_at_the_same_time_lose_nothing():
    path = private_topic("together", 1)
    chmod = subprocess.Popen(f"for i in $(seq 200); do chmod 0620 {path}/p0; chmod 0640 {path}/p0; done",
                             shell=True)
    with broker.client() as client:
        for _ in range(50):
            allow(client, binding("READ", "together"))
            check(f"user:{APP}:r--" in facl(f"{path}/p0"), "lost", facl(f"{path}/p0"))
            delete(client, name="together", user=APP, operation="READ")
    equal(chmod.wait(60), 0)


def test_a_refusal_is_a_line_of_the_audit_log():
    private_topic("audited", 1)
    def run():
        with broker.client(client_id='a "b\n') as client:
            return fetch_error(client, "audited")
    until(lambda: as_user(WHO, run) and re.search(
        rf'audit: denied request=Fetch code=TOPIC_AUTHORIZATION_FAILED principal="User:{APP}" '
        rf'uid={UID} peer=127.0.0.1 client="a\?\?b\?" operation=Read resource=Topic name="audited" port=\d+ '
        rf'listener="plaintext://127.0.0.1:\d+" mechanism=- repeats=0 reason=""$',
        broker.log(), re.M), "a line in the log")


def test_names_of_the_configuration_are_the_users_that_it_says():
    users = f"[users]\napp1 = 45001\nzapp = 45001\n{APP} = 45002\nboss = 0\n"
    with Server("named", ["-o", "allow_other"], config=users) as other, other.client() as client:
        path = other.topic("t")
        sh(f"chmod 0600 {path}/p0; chmod 0700 {path}")
        allow(client, binding("READ", "t", "app1"), binding("WRITE", "t", APP))
        check({"user:45001:r--", "user:45002:-w-"} <= facl(f"{path}/p0"), facl(f"{path}/p0"))
        owner = {"READ", "WRITE", "DESCRIBE_CONFIGS", "ALTER"}
        equal(described(client, name="t", kind=TOPIC),
              {("t", "boss"): owner, ("t", "app1"): {"READ"}, ("t", APP): {"WRITE"}})
        equal(of(client, "t", "zapp"), {"READ"}, "by its other name")
        sh(f"setfacl -m u:{UID}:r {path}/p0; setfacl -m u:{UID}:x {path}")
        equal(of(client, "t"), {"WRITE"}, "the name is another's")
        equal(of(client, "t", f"#{UID}"), {"READ"})
        equal(delete(client, name="t", user="zapp"), {("t", "zapp", "READ", "NONE")})
        equal(of(client, "t", "app1"), set())
        allow(client, binding("READ", "t", "boss"))
        (answer,) = create(client, binding("READ", "t", "root"))
        check(answer[0] == "INVALID_REQUEST" and "uid 0" in answer[1], answer)


def test_grants_survive_a_restart():
    path = private_topic("restart", 1)
    with broker.client() as client:
        allow(client, binding("READ", "restart"))
    before = facl(path), facl(path, True), facl(f"{path}/p0")
    broker.kill()
    broker.clean_mount()
    broker.start()
    equal((facl(path), facl(path, True), facl(f"{path}/p0")), before)


if __name__ == "__main__":
    main(broker)
