#!/usr/bin/python3
# kqfs-test: timeout=900
"""Who may do what: every user, by every way in, with many modes and ACLs. What the mount grants the
wire grants, and nothing else.

The users exist for the broker alone (nss_wrapper). A way in is a row of WAYS; a listener that
authenticates gets the user's name and the rights follow.
"""

import errno
import os
import random
import socket
import stat
import struct
import time

import mounted
from mounted import *
from protocol import *

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
}
OWNER, NAMED = USERS["kqowner"][0], USERS["kqnamed"][0]
ACCESS = "system.posix_acl_access"
DENIALS = {"TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"}
rng = random.Random(7)
SECONDS = 200  # what is left then stays for another day


def make_users(directory):
    with open(f"{directory}/passwd", "w") as file:
        for name, (uid, gid, _) in USERS.items():
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


need_root()
SOCKET = os.path.join(mounted.test_directory(), "kafka.sock")
broker = Server("b", ["-o", "allow_other", "--max.partitions", "100000"])
broker.options[1] += f" unix://{SOCKET}"


# --- Ways in ---

class UnixClient(Client):
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.client_id, self.correlation = "test", 0


WAYS = {  # how a process of the user connects; the mount is beside them all
    "plaintext": lambda user: broker.client(),
    "unix socket": lambda user: UnixClient(SOCKET),
}


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


def set_access(path, access, uid, gid):
    error_of(os.removexattr, path, ACCESS)
    sticky = stat.S_ISVTX if os.path.isdir(path) else 0
    os.chown(path, uid, gid)
    if isinstance(access, int):
        os.chmod(path, access | sticky)
    else:
        os.chmod(path, 0o600 | sticky)
        os.setxattr(path, ACCESS, access)


def prepare(variant):
    """The tree as the variant has it; what somebody was allowed to change is made again."""
    root, root_owner, topic, file, group = variant
    for name in ("new", "made"):
        error_of(os.rmdir, broker.path(name))
    for name in ("t", "gone", "more"):
        if not os.path.isdir(broker.path(name)) or (
                name == "more" and len(os.listdir(broker.path(name))) > 60):
            error_of(os.rmdir, broker.path(name))
            os.mkdir(broker.path(name))
        set_access(broker.path(name, "p0"), file, OWNER, GROUP)
        set_access(broker.path(name), topic, OWNER, GROUP)
    for name in ("g", "old"):
        path = broker.path(".kqfs/groups", name)
        if not os.path.isdir(path):
            os.mkdir(path)
        set_access(path, group, OWNER, GROUP)
    set_access(broker.mount, root, root_owner, 0)


# --- The same act on the mount and on the wire ---

def opens(flags, name):
    def act(base):
        os.close(os.open(f"{base}/{name}", flags | os.O_NONBLOCK, 0o644))
    return act


def adds_partition(base):
    taken = 0
    while True:  # the next number, without a right to list
        try:
            os.close(os.open(f"{base}/more/p{taken}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644))
            return
        except FileExistsError:
            taken += 1


def keeps_mode(*names):
    def act(base):
        for name in names:
            os.chmod(f"{base}/{name}", stat.S_IMODE(os.stat(f"{base}/{name}").st_mode))
    return act


def lists(name):
    return lambda base: os.listdir(f"{base}/{name}")


def asks_metadata(c):
    return c.ask("Metadata", 9, topics=[dict(name="t")], allow_auto_topic_creation=False)["topics"][0]


def asks_fetch(c):
    return c.ask("Fetch", 11, max_wait_ms=0, min_bytes=0, max_bytes=1000, session_epoch=-1, topics=[
        dict(topic="t", partitions=[dict(partition=0, fetch_offset=0, partition_max_bytes=100)])])[
            "responses"][0]["partitions"][0]


def asks_create(c):
    return c.ask("CreateTopics", 7, validate_only=True, topics=[
        dict(name="made", num_partitions=1, replication_factor=1)])["topics"][0]


def asks_delete(c):
    return c.ask("DeleteTopics", 6, timeout_ms=9000, topics=[dict(name="gone")])["responses"][0]


def asks_alter(c):
    return c.ask("CreatePartitions", 3, validate_only=True, topics=[
        dict(name="more", count=5000, assignments=None)])["results"][0]


def asks_configs(c):
    return c.ask("DescribeConfigs", 4, resources=[
        dict(resource_type=2, resource_name="t", configuration_keys=None)])["results"][0]


def asks_to_configure(c):
    return c.ask("IncrementalAlterConfigs", 1, validate_only=True, resources=[
        dict(resource_type=2, resource_name="t", configs=[
            dict(name="retention.ms", config_operation=0, value="86400000")])])["responses"][0]


def asks_for_acl(c):  # CREATE on what is there: nothing is set, the owner is asked for
    return c.ask("CreateAcls", 3, creations=[
        dict(resource_type=2, resource_name="t", resource_pattern_type=3, principal="User:kqother",
             host="*", operation=5, permission_type=3)])["results"][0]


def asks_offsets(c):
    return c.ask("OffsetFetch", 8, groups=[dict(group_id="g", topics=[])])["groups"][0]


def asks_heartbeat(c):
    return c.ask("Heartbeat", 3, group_id="g", generation_id=1, member_id="m")


def asks_commit(c):
    return c.ask("OffsetCommit", 8, group_id="g", generation_id_or_member_epoch=-1, member_id="", topics=[
        dict(name="t", partitions=[dict(partition_index=0, committed_offset=0, committed_leader_epoch=-1,
                                        committed_metadata="")])])["topics"][0]["partitions"][0]


def asks_group_delete(c):
    return c.ask("DeleteGroups", 2, groups_names=["old"])["results"][0]


ACTS = {  # (what a process does on the mount, what a client asks)
    "describe": (lambda b: os.stat(f"{b}/t/p0"), asks_metadata),
    "read": (opens(os.O_RDONLY, "t/p0"), asks_fetch),
    "write": (opens(os.O_WRONLY | os.O_APPEND, "t/p0"), lambda c: produce(c, "t", batch([Record(b"x")]))),
    "create": (lambda b: os.mkdir(f"{b}/new"), asks_create),
    "delete": (lambda b: os.rmdir(f"{b}/gone"), asks_delete),
    "alter": (adds_partition, asks_alter),
    "describe configs": (lambda b: os.getxattr(f"{b}/t", "user.kqfs.retention.ms"), asks_configs),
    "configure": (lambda b: os.setxattr(f"{b}/t", "user.kqfs.retention.ms", b"86400000"), asks_to_configure),
    "acl": (keeps_mode("t", "t/p0"), asks_for_acl),
    "list": (lists(""), lambda c: c.ask("ListPartitionReassignments", 0, topics=None)),
    "alter cluster": (keeps_mode(""), lambda c: c.ask("DescribeClientQuotas", 1, components=[])),
    "group describe": (lists(".kqfs/groups/g"), asks_offsets),
    "group read": (lambda b: os.access(f"{b}/.kqfs/groups/g", os.W_OK) or denied(), asks_heartbeat),
    "commit": (opens(os.O_RDONLY, ".kqfs/groups/g/t/p0"), asks_commit),
    "group delete": (lambda b: os.rmdir(f"{b}/.kqfs/groups/old"), asks_group_delete),
}


def denied():
    raise PermissionError(errno.EACCES, "denied")


def on_mount(base):
    out = {}
    for name, (act, _) in ACTS.items():
        number = error_of(act, base)
        out[name] = number not in (errno.EACCES, errno.EPERM), name_of(number)
    return out


def on_wire(connect, user):
    out = {}
    with connect(user) as client:
        for name, (_, ask) in ACTS.items():
            code = ERRORS[ask(client)["error_code"]]
            out[name] = code not in DENIALS, code
    return out


def test_the_mount_and_every_way_over_the_wire_agree():
    try:
        as_user(USERS["kqother"], os.stat, broker.directory)
    except OSError:
        raise Skip(f"other users do not reach {broker.directory}")
    if not os.path.exists(WRAPPER):
        raise Skip("libnss-wrapper is not installed")
    os.chmod(SOCKET, 0o777)
    count, grants, wrong = 0, 0, []
    all_variants = variants(80)
    rng.shuffle(all_variants)
    began = time.monotonic()
    for number, variant in enumerate(all_variants):
        if time.monotonic() - began > SECONDS:
            del all_variants[number:]
            break
        for user, who in USERS.items():
            prepare(variant)
            wanted = as_user(who, on_mount, broker.mount)
            for way, connect in WAYS.items():
                prepare(variant)
                got = as_user(who, on_wire, connect, user)
                for act in ACTS:
                    count += 1
                    grants += wanted[act][0]
                    if wanted[act][0] != got[act][0]:
                        wrong.append(f"{act} as {user} over {way}, variant {number} {shown(variant)}: "
                                     f"{got[act][1]}, on the mount {wanted[act][1]}")
    print(f"        {count} checks: {len(ACTS)} acts × {len(USERS)} users × {len(WAYS)} ways beside the "
          f"mount ({', '.join(WAYS)}) × {len(all_variants)} modes and ACLs; {grants} granted, "
          f"{len(wrong)} differ")
    check(not wrong, f"{len(wrong)} of {count} differ:\n  " + "\n  ".join(wrong[:60]))


def shown(variant):
    return "/".join(oct(v) if isinstance(v, int) else "acl" for v in variant)


if __name__ == "__main__":
    if os.path.exists(WRAPPER):
        broker.env = make_users(mounted.test_directory())
    main(broker)
