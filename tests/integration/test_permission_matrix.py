#!/usr/bin/python3
# kqfs-test: timeout=600
"""Who may do what: every user, by every way in, with many modes and ACLs. What the mount grants the
wire grants, and nothing else.

The users exist for the broker alone (nss_wrapper). A way in is a row of WAYS. Its connections stay
open from the first mode to the last: what chmod and setfacl change counts for their next request.
"""

import atexit
import contextlib
import errno
import os
import pickle
import random
import socket
import stat
import struct
import subprocess
import time
from collections import Counter

import issuer
import mounted
import scram
from logins import *
from mounted import *
from protocol import *

try:
    import gssapi
    from kdc import Realm
except ImportError:
    gssapi = None

WRAPPER = "/usr/lib/x86_64-linux-gnu/libnss_wrapper.so"
GROUP, NAMED_GROUP = 3001, 3010
USERS = {  # name: uid, gid, other groups
    "kqroot": (0, 0, []),
    "kqowner": (2001, GROUP, []),
    "kqmember": (2002, 3002, [GROUP]),
    "kqother": (2003, 3003, []),
    "kqnamed": (2004, 3004, []),
    "kqgrouped": (2005, 3005, [NAMED_GROUP]),
    "nobody": (65534, 65534, []),
    "stranger": (64999, 64999, []),
}
UNKNOWN = "stranger"  # to the broker's host; on the mount an uid without a name
OWNER, NAMED = USERS["kqowner"][0], USERS["kqnamed"][0]
ACCESS = "system.posix_acl_access"
PASSWORD = "every user's"
rng = random.Random(7)


# --- The broker, and who it knows ---

def make_users(directory):
    with open(f"{directory}/passwd", "w") as file:
        for name, (uid, gid, _) in USERS.items():
            if name != UNKNOWN:
                file.write(f"{name.replace('kqroot', 'root')}:x:{uid}:{gid}::/:/bin/false\n")
    members = {}
    for name, (_, gid, more) in USERS.items():
        members.setdefault(gid, [])
        for group in more:
            members.setdefault(group, []).append(name)
    with open(f"{directory}/group", "w") as file:
        for gid, names in members.items():
            file.write(f"kqg{gid}:x:{gid}:{','.join(names)}\n")
    return {"LD_PRELOAD": WRAPPER, "NSS_WRAPPER_PASSWD": f"{directory}/passwd",
            "NSS_WRAPPER_GROUP": f"{directory}/group"}


class Everywhere(Server):
    """Listens in every way there is."""

    def __init__(self):
        super().__init__("b", ["-o", "allow_other", "--max.partitions", "100000"])
        directory = mounted.scratch("keys")
        self.authority = Authority(directory)
        self.env = make_users(directory)
        self.socket = os.path.join(mounted.test_directory(), "kafka.sock")
        self.signer = issuer.Signer(directory, "issuer")
        self.ports = {scheme: free_port() for scheme in ("ssl", "sasl_plaintext", "sasl_ssl")}
        self.options[1] += f" unix://{self.socket} " + " ".join(
            f"{scheme}://127.0.0.1:{port}" for scheme, port in self.ports.items())
        jwks = os.path.join(directory, "jwks.json")
        issuer.trust(jwks, self.signer)
        self.config = f"""[tls]
certificate = {directory}/localhost.pem
key = {directory}/localhost.key
ca = {directory}/ca.pem
client_authentication = requested
ssl.principal.mapping.rules = RULE:^CN=([a-z]+)$/$1/
[sasl]
mechanisms = PLAIN SCRAM-SHA-256 OAUTHBEARER{" GSSAPI" if realm else ""}
sasl.oauthbearer.jwks.file = {jwks}
sasl.oauthbearer.expected.issuer = {issuer.NAME}
sasl.oauthbearer.expected.audience = kafka
{f"sasl.kerberos.keytab = {realm.keytab}" if realm else ""}
[users]
kqroot = 0
"""
        if realm:
            self.env.update(realm.env)
        for name in USERS:
            self.authority.make(name)
            done = subprocess.run([os.environ["KQFS_BIN"], "passwd", "--data", self.data, name],
                                  input=PASSWORD.encode() + b"\n", capture_output=True, timeout=60)
            equal(done.returncode, 0, done.stderr)

    def start(self, *more):
        super().start(*more)
        os.chmod(self.socket, 0o777)
        return self


def make_realm():
    """A KDC with a ticket for each user; None, and why, where that cannot be."""
    if not gssapi:
        return None, "python3-gssapi is not installed"
    try:
        made = Realm()
    except Skip as reason:
        return None, reason
    atexit.register(made.stop)
    os.environ.update(made.env)
    for name in USERS:
        made.ticket(name)
    return made, None


# --- Ways in: each returns a client that has said who it is ---

def as_process_of(user, connect):
    """CONNECT() by a process of USER's: this one, for as long as that takes."""
    uid, gid, groups = USERS[user]
    mine = os.getgroups()
    os.setgroups(groups)
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)
    try:
        return Connected(connect())
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(mine)


def by_unix_socket(user):
    def connect():
        made = socket.socket(socket.AF_UNIX)
        made.connect(broker.socket)
        return made
    return as_process_of(user, connect)


def by_tcp(user):
    def connect():
        host, port = broker.address.split(":")
        return socket.create_connection((host, int(port)))
    return as_process_of(user, connect)


def by_certificate(user):
    return Connected(broker.authority.connect(broker.ports["ssl"], user))


def by_sasl(log_in, tls=False):
    def way(user):
        if tls:
            client = Connected(broker.authority.connect(broker.ports["sasl_ssl"]))
        else:
            client = Client(f"127.0.0.1:{broker.ports['sasl_plaintext']}", timeout=60)
        answer = log_in(client, user)
        equal(answer["error_code"], 0, answer["error_message"])
        return client
    return way


def token_of(user):
    return broker.signer.token(sub=user, exp=int(time.time()) + 7200)


WAYS = {
    "plaintext": by_tcp,
    "unix socket": by_unix_socket,
    "TLS certificate": by_certificate,
    "PLAIN": by_sasl(lambda c, user: log_in_plain(c, user, PASSWORD), tls=True),
    "SCRAM-SHA-256": by_sasl(lambda c, user: scram.log_in(c, PASSWORD, user)),
    "OAUTHBEARER": by_sasl(lambda c, user: log_in_bearer(c, token_of(user)), tls=True),
    "GSSAPI": by_sasl(lambda c, user: log_in_gssapi(c, gssapi, realm.ticket(user)["KRB5CCNAME"])),
}
BY_UID = {"plaintext", "unix socket"}  # a name is not said


# --- Modes and ACLs ---

def acl(user, group, other, users=(), groups=(), mask=None):
    entry = lambda tag, bits, number=0xffffffff: struct.pack("<HHI", tag, bits, number)
    out = struct.pack("<I", 2) + entry(1, user)
    out += b"".join(entry(2, bits, number) for number, bits in users) + entry(4, group)
    out += b"".join(entry(8, bits, number) for number, bits in groups)
    if mask is not None:
        out += entry(16, mask)
    return out + entry(32, other)


ROOTS = [0o777, 0o755, 0o711, 0o700, 0o773, 0o770, acl(7, 1, 1, [(NAMED, 7)], mask=7),
         acl(7, 1, 1, [], [(NAMED_GROUP, 3)], mask=7)]
TOPICS = [0o755, 0o777, 0o700, 0o711, 0o710, 0o750, 0o775, 0o773, 0o705, 0o000,
          acl(7, 0, 0, [(NAMED, 7)], mask=7), acl(7, 0, 0, [(NAMED, 1)], mask=7),
          acl(7, 5, 5, [(NAMED, 0)], mask=7), acl(7, 0, 0, [], [(NAMED_GROUP, 5)], mask=7),
          acl(7, 7, 0, [(NAMED, 7)], [(NAMED_GROUP, 7)], mask=1)]
FILES = [0o644, 0o666, 0o600, 0o640, 0o620, 0o602, 0o060, 0o006, 0o000, 0o400, 0o200,
         acl(6, 0, 0, [(NAMED, 6)], mask=6), acl(6, 0, 0, [(NAMED, 6)], mask=4),
         acl(6, 4, 4, [(NAMED, 0)], mask=7), acl(6, 0, 0, [], [(NAMED_GROUP, 4)], mask=6),
         acl(6, 6, 6, [(NAMED, 6)], [(NAMED_GROUP, 6)], mask=0)]
GROUPS = [0o770, 0o700, 0o777, 0o755, 0o773, acl(7, 0, 0, [(NAMED, 7)], mask=7),
          acl(7, 0, 0, [], [(NAMED_GROUP, 5)], mask=7)]


def variants(count):
    """(root, its owner, topic, file, group)"""
    out = [(0o777, 0, 0o755, file, 0o770) for file in FILES]
    out += [(0o777, 0, topic, 0o666, 0o777) for topic in TOPICS]
    out += [(root, owner, 0o777, 0o666, 0o777) for root in ROOTS for owner in (0, OWNER)]
    out += [(0o777, 0, 0o755, 0o644, group) for group in GROUPS]
    while len(out) < count:
        out.append((rng.choice(ROOTS), rng.choice((0, OWNER)), rng.choice(TOPICS), rng.choice(FILES),
                    rng.choice(GROUPS)))
    return out


class Tree:
    """What the acts are tried on. Each way deletes a topic and a group of its own, so that one does
    not answer for the next."""

    def __init__(self):
        self.has = {}  # path: its owner, group and access, so that nothing is set twice

    def set(self, path, access, uid=OWNER, gid=GROUP):
        owner, had = self.has.get(path, (None, None))
        if owner != (uid, gid):
            os.chown(path, uid, gid)
        if access != had:
            if isinstance(had, bytes):
                error_of(os.removexattr, path, ACCESS)
            if isinstance(access, int):
                os.chmod(path, access)
            else:
                os.chmod(path, 0o600)
                os.setxattr(path, ACCESS, access)
        self.has[path] = (uid, gid), access

    def become(self, variant):
        root, root_owner, topic, file, group = variant
        self.make(broker.path("t"), topic)
        self.set(broker.path("t", "p0"), file)
        self.make(broker.path(".kqfs/groups/g"), group)
        for way in WAYS:
            self.make(topic_of(way), topic)
            self.make(group_of(way), group)
        self.set(broker.mount, root, root_owner, 0)

    def make(self, path, access):
        if path not in self.has:
            mode = access if isinstance(access, int) else 0o600
            os.mkdir(path, mode)
            self.has[path] = None, mode
        self.set(path, access)

    def restore(self, variant, way, outcomes):
        """What somebody was allowed to delete."""
        _, _, topic, _, group = variant
        for act, path, access in (("delete", topic_of(way), topic), ("group delete", group_of(way), group)):
            if outcomes[act] == "NONE":
                del self.has[path]
                self.make(path, access)


def topic_of(way):
    return broker.path("gone-" + way.replace(" ", "-"))


def group_of(way):
    return broker.path(".kqfs/groups/old-" + way.replace(" ", "-"))


# --- The same act on the mount and on the wire ---

def opens(flags, name):
    return lambda base: os.close(os.open(f"{base}/{name}", flags | os.O_NONBLOCK, 0o644))


def appends_to(topic):
    return opens(os.O_WRONLY | os.O_APPEND, topic + "/p0")


def creates(base):
    os.mkdir(base + "/bad name")


def keeps_mode(*names):
    def act(base):
        for name in names:
            os.chmod(f"{base}/{name}", stat.S_IMODE(os.stat(f"{base}/{name}").st_mode))
    return act


def one_of(*acts):
    def act(base):
        for may_fail in acts[:-1]:
            with contextlib.suppress(PermissionError):
                return may_fail(base)
        return acts[-1](base)
    return act


def joins(base):
    if not os.access(f"{base}/.kqfs/groups/g", os.W_OK):
        raise PermissionError(errno.EACCES, "denied")


def first(answer, *path):
    for name in path:
        answer = answer[name][0]
    return answer


TOPIC = dict(name="t")
# What a process does on the mount, what a client asks, and where in the response it says how that
# went. What is allowed changes nothing, but for what clients delete: on the mount the kernel has
# compared owner, mode and ACL before it says that a topic is a directory, and before it asks the
# broker, which says that a name is bad.
ACTS = {
    "describe": (
        lambda base: os.stat(f"{base}/t/p0"),
        ("Metadata", 9, dict(topics=[TOPIC], allow_auto_topic_creation=False)), ["topics"]),
    "read": (
        opens(os.O_RDONLY, "t/p0"),
        ("Fetch", 11, dict(max_wait_ms=0, min_bytes=0, max_bytes=1000, session_epoch=-1, topics=[
            dict(topic="t", partitions=[dict(partition=0, fetch_offset=0, partition_max_bytes=100)])])),
        ["responses", "partitions"]),
    "write": (
        appends_to("t"),
        ("Produce", 9, dict(acks=-1, timeout_ms=10000, topic_data=[
            dict(name="t", partition_data=[dict(index=0, records=batch([Record(b"x")]))])])),
        ["responses", "partition_responses"]),
    "idempotent write": (
        one_of(appends_to("t"), appends_to("gone-plaintext"), creates), ("InitProducerId", 4, dict(transactional_id=None)), []),
    "create": (
        creates,
        ("CreateTopics", 7, dict(validate_only=True, topics=[
            dict(name="made", num_partitions=1, replication_factor=1)])), ["topics"]),
    "delete": (
        lambda base: os.unlink(f"{base}/t"),
        ("DeleteTopics", 6, dict(timeout_ms=9000, topics=[dict(name="gone-WAY")])), ["responses"]),
    "alter": (
        opens(os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, "t/p4999"),  # not the next one
        ("CreatePartitions", 3, dict(validate_only=True, topics=[
            dict(name="t", count=5000, assignments=None)])), ["results"]),
    "describe configs": (
        lambda base: os.getxattr(f"{base}/t", "user.kqfs.retention.ms"),
        ("DescribeConfigs", 4, dict(resources=[
            dict(resource_type=2, resource_name="t", configuration_keys=None)])), ["results"]),
    "configure": (
        lambda base: os.setxattr(f"{base}/t", "user.kqfs.retention.ms", b"86400000"),
        ("IncrementalAlterConfigs", 1, dict(validate_only=True, resources=[
            dict(resource_type=2, resource_name="t", configs=[
                dict(name="retention.ms", config_operation=0, value="86400000")])])), ["responses"]),
    "acl": (  # CREATE on what is there: nothing is set, the owner is asked for
        keeps_mode("t", "t/p0"),
        ("CreateAcls", 3, dict(creations=[
            dict(resource_type=2, resource_name="t", resource_pattern_type=3,
                 principal="User:kqother", host="*", operation=5, permission_type=3)])), ["results"]),
    "list": (
        lambda base: os.listdir(base),
        ("ListPartitionReassignments", 0, dict(topics=None)), []),
    "alter cluster": (keeps_mode(""), ("DescribeClientQuotas", 1, dict(components=[])), []),
    "group describe": (
        lambda base: os.listdir(f"{base}/.kqfs/groups/g"),
        ("OffsetFetch", 8, dict(groups=[dict(group_id="g", topics=[])])), ["groups"]),
    "group read": (
        joins, ("Heartbeat", 3, dict(group_id="g", generation_id=1, member_id="m")), []),
    "commit": (
        opens(os.O_RDONLY, ".kqfs/groups/g/t/p0"),
        ("OffsetCommit", 8, dict(group_id="g", generation_id_or_member_epoch=-1, topics=[
            dict(name="t", partitions=[dict(partition_index=0, committed_offset=0,
                                            committed_leader_epoch=-1, committed_metadata="")])])),
        ["topics", "partitions"]),
    "group delete": (
        lambda base: os.unlink(f"{base}/.kqfs/groups/g"),
        ("DeleteGroups", 2, dict(groups_names=["old-WAY"])), ["results"]),
}
GRANTED = {  # on the mount, on the wire
    "create": ("EINVAL", "NONE"),
    "idempotent write": ("success", "EINVAL", "NONE"),
    "delete": ("EISDIR", "NONE"),
    "alter": ("ENOENT", "NONE"),
    "group read": ("success", "UNKNOWN_MEMBER_ID"),
    "group delete": ("EISDIR", "NONE"),
}
CREATING = "create", "alter", "idempotent write"  # or for lack of another right
DENIED = {"EACCES", "EPERM", "TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED",
          "CLUSTER_AUTHORIZATION_FAILED"}


def is_granted(act, outcome):
    """None: OUTCOME is not about rights."""
    if outcome in GRANTED.get(act, ("success", "NONE")):
        return True
    return False if outcome in DENIED else None


# What a client is told of its rights without trying: a request, and what the response says of which
# acts.
def operations(key, **bits):
    """Of what may be described, the bits of org.apache.kafka.common.acl.AclOperation."""
    return lambda answer: {} if answer["error_code"] else {
        act.replace("_", " "): bool(answer[key] >> bit & 1) for act, bit in bits.items()}


def among(key, field, name, act):
    return lambda answer: {act: any(each[field] == name for each in answer[key])}


SAYS = {
    "operations on the topic": (
        ("Metadata", 9, dict(topics=[TOPIC], allow_auto_topic_creation=False,
                             include_topic_authorized_operations=True)),
        ["topics"], operations("topic_authorized_operations", read=3, write=4, create=5, delete=6,
                               alter=7, describe=8, describe_configs=10, configure=11)),
    "operations on the group": (
        ("DescribeGroups", 5, dict(groups=["g"], include_authorized_operations=True)),
        ["groups"], operations("authorized_operations", group_read=3, group_delete=6, group_describe=8)),
    "operations on the cluster": (
        ("DescribeCluster", 0, dict(include_cluster_authorized_operations=True)),
        [], operations("cluster_authorized_operations", create=5, alter_cluster=7, list=8,
                       idempotent_write=12)),
    "topics": (("Metadata", 9, dict(topics=None)), [], among("topics", "name", "t", "find")),
    "groups": (("ListGroups", 4, dict()), [], among("groups", "group_id", "g", "group describe")),
}


class Process:
    """Of one user, for as long as the test goes on; does every act when it is asked to."""

    def __init__(self, who):
        self.socket, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = in_child(self.serve, child, who)
        child.close()

    def serve(self, asked, who):
        self.socket.close()
        uid, gid, groups = who
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        while asked.recv(1):
            asked.send(pickle.dumps({
                name: name_of(error_of(act, broker.mount)) for name, (act, _, _) in ACTS.items()}))

    def act(self):
        self.socket.send(b"?")
        return pickle.loads(self.socket.recv(1 << 16))

    def end(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        finish(self.pid)


class Peer:
    """One user by one way: a connection that asks for every act at once."""

    def __init__(self, way, user):
        self.client = WAYS[way](user)
        self.sent, frames = [], []
        requests = [request for _, request, _ in ACTS.values()] + [request for request, _, _ in SAYS.values()]
        for name, version, values in requests:
            frame, sent = self.client.frame(name, version, **aimed(values, way))
            self.sent.append(sent)
            frames.append(frame)
        self.frames = b"".join(frames)

    def ask(self):
        self.client.socket.sendall(self.frames)

    def receive(self, sent, path):
        return first(self.client.receive(sent), *path)

    def answers(self):
        """How each act went, and which it is said would."""
        outcomes = {act: ERRORS[self.receive(sent, path)["error_code"]]
                    for (act, (_, _, path)), sent in zip(ACTS.items(), self.sent)}
        said = {what: says(self.receive(sent, path))
                for (what, (_, path, says)), sent in zip(SAYS.items(), self.sent[len(ACTS):])}
        return outcomes, said


def aimed(values, way):
    """VALUES, with what is this WAY's for WAY in names."""
    if isinstance(values, dict):
        return {name: aimed(value, way) for name, value in values.items()}
    if isinstance(values, list):
        return [aimed(value, way) for value in values]
    return values.replace("WAY", way.replace(" ", "-")) if isinstance(values, str) else values


def shown(variant):
    return "/".join(oct(v) if isinstance(v, int) else "acl" for v in variant)


def ways_of(user):
    return [way for way in WAYS if user != UNKNOWN or way not in BY_UID]


def wanted_for(user, on_mount):
    wanted = {act: is_granted(act, outcome) for act, outcome in on_mount.items()}
    if user == UNKNOWN:  # there is nobody whom something new could belong to
        wanted.update({act: on_mount[act] == "success" for act in CREATING})
    wanted["find"] = wanted["list"] and wanted["describe"]
    return wanted


def test_the_mount_and_every_way_over_the_wire_agree():
    try:
        as_user(USERS["kqother"], os.stat, broker.directory)
    except OSError as error:
        raise Skip(f"other users do not reach {broker.directory}") from error
    processes = {user: Process(who) for user, who in USERS.items()}
    peers = {user: {way: Peer(way, user) for way in ways_of(user)} for user in USERS}
    os.umask(0)
    tree, all_variants, outcomes, told, wrong = Tree(), variants(80), Counter(), 0, []
    for variant in all_variants:
        tree.become(variant)
        for user in USERS:
            wanted = wanted_for(user, processes[user].act())
            for peer in peers[user].values():
                peer.ask()
            for way, peer in peers[user].items():
                got, said = peer.answers()
                tree.restore(variant, way, got)
                outcomes.update(wanted[act] for act in ACTS)
                told += sum(map(len, said.values()))
                wrong += [f"{act} as {user} over {way}, {shown(variant)}: {outcome}, on the mount {wanted[act]}"
                          for act, outcome in got.items()
                          if wanted[act] is None or is_granted(act, outcome) != wanted[act]]
                wrong += [f"{act} as {user} over {way}, {shown(variant)}: {what}: {allowed}, on the mount "
                          f"{wanted[act]}" for what, acts in said.items()
                          for act, allowed in acts.items() if allowed != wanted[act]]
    for process in processes.values():
        process.end()
    count = outcomes.total()
    print(f"        {count} checks: {len(ACTS)} acts × {len(USERS)} users × {len(WAYS)} ways beside the "
          f"mount ({', '.join(WAYS)}) × {len(all_variants)} modes and ACLs, but for {UNKNOWN}, who has "
          f"no way by uid; {outcomes[True]} granted; and {told} times what a client is told that it may; "
          f"{len(wrong)} differ")
    check(all(outcomes[granted] > 1000 for granted in (True, False)), outcomes)
    check(not wrong, f"{len(wrong)} of {count + told} differ:\n  " + "\n  ".join(wrong[:60]))


def test_a_ticket_was_among_the_ways():
    if not realm:
        raise Skip(why)


if __name__ == "__main__":
    try:
        need_root()
        need("openssl")
        if not os.path.exists(WRAPPER):
            raise Skip("libnss-wrapper is not installed")
        realm, why = make_realm()
    except Skip as reason:
        print(reason)
        raise SystemExit(77)
    if not realm:
        del WAYS["GSSAPI"]
    broker = Everywhere()
    main(broker)
