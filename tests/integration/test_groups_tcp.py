#!/usr/bin/python3
"""Consumer groups over TCP: every version of every request, rebalances, static members, offsets,
and what a broker that was killed knows when it is back."""

import socket
import struct
import time

import mounted
from mounted import *
from protocol import *

broker = Server("b", ["--group.initial.rebalance.delay.ms", "300",
                      "--group.min.session.timeout.ms", "1000"])
JOIN, SYNC, BEAT, LEAVE = 9, 5, 4, 5  # the newest versions


def subscription(*topics):
    names = b"".join(struct.pack(">h", len(t)) + t.encode() for t in topics)
    return struct.pack(">hi", 0, len(topics)) + names + struct.pack(">i", -1)


def assignment(topic, *partitions):
    return (struct.pack(">hih", 0, 1, len(topic)) + topic.encode() +
            struct.pack(f">i{len(partitions)}i", len(partitions), *partitions) +
            struct.pack(">i", -1))


class Member:
    """One connection of one member, which does as it is told."""

    def __init__(self, group, topic="t", instance=None, session_ms=10000, rebalance_ms=20000,
                 where=broker):
        self.client = where.client(client_id="app")
        self.group, self.topic, self.instance = group, topic, instance
        self.session_ms, self.rebalance_ms = session_ms, rebalance_ms
        self.id, self.generation, self.answer, self.sent = "", -1, None, None

    def ask_to_join(self, version=JOIN, metadata=None):
        more = dict(group_instance_id=self.instance) if version >= 5 else {}
        self.sent = self.client.send(
            "JoinGroup", version, group_id=self.group, session_timeout_ms=self.session_ms,
            rebalance_timeout_ms=self.rebalance_ms, member_id=self.id, protocol_type="consumer",
            protocols=[dict(name="range", metadata=metadata or subscription(self.topic))], **more)
        return self

    def joined(self):
        answer = self.answer = self.client.receive(self.sent)
        if ERRORS[answer["error_code"]] in ("NONE", "MEMBER_ID_REQUIRED"):
            self.id, self.generation = answer["member_id"], answer["generation_id"]
        return ERRORS[answer["error_code"]]

    def join(self, version=JOIN, **more):
        result = self.ask_to_join(version, **more).joined()
        return self.ask_to_join(version, **more).joined() if result == "MEMBER_ID_REQUIRED" \
            else result

    def leads(self):
        return self.answer["leader"] == self.id

    def ask_to_sync(self, assignments=(), version=SYNC):
        more = dict(group_instance_id=self.instance) if version >= 3 else {}
        self.sent = self.client.send(
            "SyncGroup", version, group_id=self.group, generation_id=self.generation,
            member_id=self.id, assignments=[dict(member_id=m, assignment=a)
                                            for m, a in assignments], **more)
        return self

    def synced(self):
        answer = self.client.receive(self.sent)
        return ERRORS[answer["error_code"]], answer["assignment"]

    def sync(self, assignments=(), version=SYNC):
        return self.ask_to_sync(assignments, version).synced()

    def beat(self, version=BEAT):
        more = dict(group_instance_id=self.instance) if version >= 3 else {}
        answer = self.client.ask("Heartbeat", version, group_id=self.group, member_id=self.id,
                                 generation_id=self.generation, **more)
        return ERRORS[answer["error_code"]]

    def leave(self, version=LEAVE):
        if version < 3:
            answer = self.client.ask("LeaveGroup", version, group_id=self.group, member_id=self.id)
            return ERRORS[answer["error_code"]]
        answer = self.client.ask("LeaveGroup", version, group_id=self.group,
                                 members=[dict(member_id=self.id,
                                               group_instance_id=self.instance)])
        equal(answer["error_code"], 0)
        return ERRORS[answer["members"][0]["error_code"]]


def group_of(group, count, **more):
    """COUNT members in a stable generation, each with the partition of its number."""
    members = [Member(group, **more) for _ in range(count)]
    for member in members:
        if member.instance is None:
            member.ask_to_join().joined()  # MEMBER_ID_REQUIRED
        member.ask_to_join()
    for member in members:
        equal(member.joined(), "NONE")
    parts = [(m.id, assignment(m.topic, i)) for i, m in enumerate(members)]
    for member in members:
        member.ask_to_sync(parts if member.leads() else ())
    for i, member in enumerate(members):
        equal(member.synced(), ("NONE", assignment(member.topic, i)))
    return members


def commit(client, group, offsets, topic="t", member="", generation=-1, version=9, metadata=""):
    """OFFSETS: {partition: offset}. The error of each."""
    answer = client.ask("OffsetCommit", version, group_id=group, member_id=member,
                        generation_id_or_member_epoch=generation,
                        topics=[dict(name=topic, partitions=[
                            dict(partition_index=p, committed_offset=o,
                                 committed_metadata=metadata) for p, o in offsets.items()])])
    return [ERRORS[p["error_code"]] for p in answer["topics"][0]["partitions"]]


def committed(client, group, topic="t", partitions=(0,), version=9):
    """The offsets, or the group's error."""
    if version >= 8:
        answer = client.ask("OffsetFetch", version, groups=[dict(group_id=group, topics=[
            dict(name=topic, partition_indexes=list(partitions))])])["groups"][0]
    else:
        answer = client.ask("OffsetFetch", version, group_id=group, topics=[
            dict(name=topic, partition_indexes=list(partitions))])
    if answer["error_code"]:
        return ERRORS[answer["error_code"]]
    return [p["committed_offset"] for p in answer["topics"][0]["partitions"]]


def described(client, group, version=6):
    return client.ask("DescribeGroups", version, groups=[group],
                      include_authorized_operations=version >= 3)["groups"][0]


# --- Every version ---

def test_every_version_finds_the_coordinator():
    with broker.client() as client:
        for version in range(7):
            if version < 4:
                answer = client.ask("FindCoordinator", version, key="g")
            else:
                answer = client.ask("FindCoordinator", version, coordinator_keys=["g", "h"])
                equal([c["key"] for c in answer["coordinators"]], ["g", "h"])
                answer = answer["coordinators"][1]
            refused(answer, "NONE")
            equal(f"{answer['host']}:{answer['port']}", broker.address)


def test_every_version_joins_and_leaves():
    for version in range(JOIN + 1):
        member = Member(f"versions-{version}")
        equal(member.ask_to_join(version).joined(),
              "NONE" if version < 4 else "MEMBER_ID_REQUIRED", version)
        if version >= 4:
            equal(member.ask_to_join(version).joined(), "NONE")
        check(member.leads())
        equal((member.generation, member.answer["protocol_name"]), (1, "range"))
        equal(member.answer["members"][0]["metadata"], subscription("t"))
        parts = [(member.id, assignment("t", 0))]
        equal(member.sync(parts, min(version, SYNC)), ("NONE", assignment("t", 0)))
        equal(member.sync((), min(version, SYNC)), ("NONE", assignment("t", 0)))
        equal(member.beat(min(version, BEAT)), "NONE")
        equal(member.leave(min(version, LEAVE)), "NONE")
        equal(member.beat(min(version, BEAT)), "UNKNOWN_MEMBER_ID")


def test_every_version_commits_and_fetches():
    broker.topic("t")
    with broker.client() as client:
        for version in range(2, 10):
            equal(commit(client, "versions", {0: version}, version=version, metadata="m"), ["NONE"])
            for fetching in range(1, 10):
                equal(committed(client, "versions", version=fetching), [version], fetching)
        everything = client.ask("OffsetFetch", 9, groups=[
            dict(group_id="versions", topics=None), dict(group_id="nowhere", topics=None)])
        equal([[(t["name"], [(p["partition_index"], p["committed_offset"], p["metadata"])
                             for p in t["partitions"]]) for t in g["topics"]]
               for g in everything["groups"]], [[("t", [(0, 9, "m")])], []])
        equal(client.ask("OffsetFetch", 2, group_id="versions", topics=None)["topics"][0]["name"],
              "t")
        equal(committed(client, "nowhere", partitions=(0, 5)), [-1, -1])


def test_every_version_describes_lists_and_deletes():
    member, = group_of("shown", 1)
    with broker.client() as client:
        commit(client, "empty", {0: 1})
        for version in range(7):
            group = described(client, "shown", version)
            equal((group["group_state"], group["protocol_type"], group["protocol_data"]),
                  ("Stable", "consumer", "range"), version)
            shown, = group["members"]
            equal((shown["member_id"], shown["client_id"], shown["client_host"]),
                  (member.id, "app", "/127.0.0.1"))
            equal(shown["member_assignment"], assignment("t", 0))
            gone = described(client, "nowhere", version)
            equal((gone["group_state"], ERRORS[gone["error_code"]]),
                  ("Dead", "NONE" if version < 6 else "GROUP_ID_NOT_FOUND"))
        for version in range(6):
            answer = client.ask("ListGroups", version)
            refused(answer, "NONE")
            found = {g["group_id"]: g for g in answer["groups"]}
            equal(found["shown"]["protocol_type"], "consumer")
            check("empty" in found and "nowhere" not in found)
        states = client.ask("ListGroups", 5, states_filter=["stable"])["groups"]
        equal([(g["group_id"], g["group_state"], g["group_type"]) for g in states],
              [("shown", "Stable", "classic")])
        equal(client.ask("ListGroups", 5, types_filter=["share"])["groups"], [])
        for version in range(3):
            commit(client, f"d{version}", {0: 1})
            answer = client.ask("DeleteGroups", version,
                                groups_names=[f"d{version}", "nowhere", "shown"])
            equal([ERRORS[r["error_code"]] for r in answer["results"]],
                  ["NONE", "GROUP_ID_NOT_FOUND", "NON_EMPTY_GROUP"])
            equal(committed(client, f"d{version}"), [-1])


def test_single_offsets_are_deleted():
    topic = broker.topic("deleted")
    open(f"{topic}/p1", "a").close()
    with broker.client() as client:
        commit(client, "od", {0: 1, 1: 2}, topic="deleted")

        def delete(group, *partitions):
            answer = client.ask("OffsetDelete", 0, group_id=group, topics=[
                dict(name="deleted", partitions=[dict(partition_index=p) for p in partitions])])
            return (ERRORS[answer["error_code"]],
                    [ERRORS[p["error_code"]] for t in answer["topics"] for p in t["partitions"]])

        equal(delete("od", 0, 7), ("NONE", ["NONE", "UNKNOWN_TOPIC_OR_PARTITION"]))
        equal(committed(client, "od", "deleted", (0, 1)), [-1, 2])
        equal(delete("nowhere", 0)[0], "GROUP_ID_NOT_FOUND")
        member, = group_of("od", 1, topic="deleted")
        equal(delete("od", 1), ("NONE", ["GROUP_SUBSCRIBED_TO_TOPIC"]))
        member.leave()


# --- Errors ---

def test_what_makes_no_sense_is_told_so():
    with broker.client() as client:
        stranger = Member("new")
        stranger.id = "stranger"
        equal(stranger.join(), "UNKNOWN_MEMBER_ID")
        equal(stranger.beat(), "UNKNOWN_MEMBER_ID")
        equal(Member("").join(), "INVALID_GROUP_ID")
        equal(Member("short", session_ms=10).join(), "INVALID_SESSION_TIMEOUT")
        equal(commit(client, "new", {0: 1}, generation=3, member="m"), ["GROUP_ID_NOT_FOUND"])
        equal(commit(client, "new", {0: 1}, generation=3, member="m", version=8),
              ["ILLEGAL_GENERATION"])
        equal(commit(client, "new", {7: 1}), ["UNKNOWN_TOPIC_OR_PARTITION"])
        equal(commit(client, "new", {0: 1}, metadata="x" * 5000), ["OFFSET_METADATA_TOO_LARGE"])
        member, = group_of("busy", 1)
        equal(commit(client, "busy", {0: 1}), ["UNKNOWN_MEMBER_ID"])
        equal(commit(client, "busy", {0: 1}, generation=9, member=member.id),
              ["ILLEGAL_GENERATION"])
        equal(commit(client, "busy", {0: 1}, generation=1, member=member.id), ["NONE"])
        other = Member("busy")
        other.ask_to_join().joined()
        sent = client.send("JoinGroup", JOIN, group_id="busy", session_timeout_ms=10000,
                           rebalance_timeout_ms=10000, member_id=other.id, protocol_type="other",
                           protocols=[dict(name="range", metadata=b"")])
        refused(client.receive(sent), "INCONSISTENT_GROUP_PROTOCOL")
        member.leave()


# --- Rebalances ---

def test_three_members_come_and_go():
    members = group_of("three", 3)
    fourth = Member("three")
    fourth.ask_to_join().joined()
    fourth.ask_to_join()
    until(lambda: members[0].beat() == "REBALANCE_IN_PROGRESS", "the rebalance")
    for member in members:
        member.ask_to_join()
    for member in members + [fourth]:
        equal(member.joined(), "NONE")
    equal([m.generation for m in members + [fourth]], [2] * 4)
    equal([m.leads() for m in members + [fourth]].count(True), 1)
    leader = next(m for m in members + [fourth] if m.leads())
    equal({m["member_id"] for m in leader.answer["members"]}, {m.id for m in members + [fourth]})
    for member in members + [fourth]:
        member.ask_to_sync([(m.id, b"%d" % i) for i, m in enumerate(members + [fourth])]
                           if member.leads() else ())
    for i, member in enumerate(members + [fourth]):
        equal(member.synced(), ("NONE", b"%d" % i))
    for member in members:
        equal(member.leave(), "NONE")
    equal(fourth.join(), "NONE")
    check(fourth.leads())
    equal(fourth.leave(), "NONE")


def test_a_member_that_falls_silent_is_left_out():
    members = group_of("silent", 2, session_ms=1000, rebalance_ms=3000)
    members[0].client.close()  # the broker does not mind: the session counts
    until(lambda: members[1].beat() == "REBALANCE_IN_PROGRESS", "the session to end", every=0.2)
    equal(members[1].join(), "NONE")
    check(members[1].leads())
    equal(len(members[1].answer["members"]), 1)


def test_requests_behind_a_join_are_served():
    members = group_of("behind", 2)
    with broker.client() as client:
        join = members[0].ask_to_join(metadata=subscription("t", "u")).sent
        asked = members[0].client.send("ApiVersions", 0)
        commits = commit(client, "behind", {0: 3}, member=members[1].id, generation=1)
        equal(commits, ["NONE"])
        members[1].ask_to_join()
        members[0].sent = join
        equal(members[0].joined(), "NONE")
        refused(members[0].client.receive(asked), "NONE")
        equal(members[1].joined(), "NONE")


def test_who_hangs_up_while_it_waits_harms_nobody():
    members = group_of("hangup", 2, rebalance_ms=2000)
    gone = [Member("hangup", rebalance_ms=2000) for _ in range(20)]
    for member in gone:
        member.ask_to_join(3)  # parked, since it is not asked for an id
    with broker.client() as client:
        until(lambda: len(described(client, "hangup")["members"]) == 22, "all to have joined")
    before = broker.metric("kqfs_net_connections")
    for member in gone:
        member.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                        struct.pack("ii", 1, 0))  # a reset
        member.client.close()
    until(lambda: broker.metric("kqfs_net_connections") <= before - 20, "the broker to see it")
    members[0].ask_to_join()
    members[1].ask_to_join()
    for member in members:
        equal(member.joined(), "NONE")
    with broker.client() as client:
        equal(described(client, "hangup")["group_state"], "CompletingRebalance")
    until(lambda: members[0].beat() != "NONE", "those who never sync to be left out")


def test_static_members_keep_their_place():
    members = [Member("static", instance=name) for name in ("one", "two")]
    for member in members:
        member.ask_to_join()
    for member in members:
        equal(member.joined(), "NONE")
    for member in members:
        member.ask_to_sync([(m.id, m.instance.encode()) for m in members] if member.leads() else ())
    for member in members:
        equal(member.synced(), ("NONE", member.instance.encode()))
    again = Member("static", instance="two")
    equal(again.join(), "NONE")
    equal(again.generation, 1)
    check(again.id != members[1].id)
    equal(again.sync(), ("NONE", b"two"))
    equal(members[1].beat(), "FENCED_INSTANCE_ID")
    equal(members[0].beat(), "NONE")
    leader = next(m for m in members if m.leads())
    if leader is members[0]:
        back = Member("static", instance="one")
        equal(back.join(), "NONE")
        check(back.answer["skip_assignment"] and back.leads())
        equal(back.generation, 1)


# --- kill -9 ---

def test_what_was_acknowledged_outlives_kill_9():
    other = Server("killed", ["--group.initial.rebalance.delay.ms", "500"]).start()
    other.topic("t")
    members = group_of("g", 2, where=other)
    with other.client() as client:
        for round_ in range(3):
            for offset in range(200):
                equal(commit(client, "simple", {0: offset}), ["NONE"])
            equal(commit(client, "g", {0: round_}, member=members[0].id, generation=1), ["NONE"])
    for round_ in range(3):
        other.kill()
        other.start()
        with other.client() as client:
            until(lambda: committed(client, "simple") != "COORDINATOR_LOAD_IN_PROGRESS", "the load")
            equal(committed(client, "simple"), [199])
            equal(committed(client, "g"), [2])
            equal(described(client, "g")["group_state"], "Stable")
        for i, member in enumerate(members):  # they go on as if nothing had been
            member.client = other.client(client_id="app")
            equal(member.beat(), "NONE")
            equal(member.sync(), ("NONE", assignment("t", i)))
    equal(members[0].leave(), "NONE")
    equal(members[1].join(), "NONE")
    equal(members[1].generation, 2)
    other.stop()


def test_commits_under_fire_are_never_lost():
    """What was acknowledged before the kill is there after it, whatever was under way."""
    other = Server("fire").start()
    other.topic("t")
    for round_ in range(5):
        acknowledged, client = -1, other.client()
        process, end = other.process, time.monotonic() + 0.3
        offset = round_ * 1000000
        while True:
            if time.monotonic() > end and process.poll() is None:
                process.kill()
            try:
                if commit(client, "g", {0: offset}) == ["NONE"]:
                    acknowledged = offset
            except (Closed, OSError):
                break
            offset += 1
        other.kill()
        other.start()
        with other.client() as client:
            until(lambda: committed(client, "g") != "COORDINATOR_LOAD_IN_PROGRESS", "the load")
            got, = committed(client, "g")
            check(got in (acknowledged, acknowledged + 1), got, acknowledged)
    other.stop()


if __name__ == "__main__":
    mounted.main(broker)
