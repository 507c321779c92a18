#!/usr/bin/python3
"""Quotas: set and shown over TCP, kept to over TCP. A client that has used more than it may is
answered at once and then not heard for as long as the answer says."""

import json
import os
import pwd
import re
import struct
import threading
import time

import mounted
from mounted import *
from protocol import *
from protocol import refused

# Two windows of a second: what a quota gives in one second can be had at once.
WINDOWS = "[broker]\nquota.window.num = 2\nquota.window.size.seconds = 1\nquota.max.entities = 50\n"
broker = Server("b", config=WINDOWS)
DEFAULT = None
PRODUCE, FETCH, REQUEST = "producer_byte_rate", "consumer_byte_rate", "request_percentage"
EXACT, DEFAULTS, SPECIFIED = range(3)


def entity(**parts):
    return [dict(entity_type=t.replace("_", "-"), entity_name=n) for t, n in parts.items()]


def entry(parts, **values):
    """VALUES: None removes."""
    return dict(entity=entity(**parts), ops=[dict(key=k, value=v or 0, remove=v is None)
                                             for k, v in values.items()])


def alter(client, *entries, version=1, **more):
    answer = client.ask("AlterClientQuotas", version, entries=entries, **more)
    equal([e["entity"] for e in answer["entries"]], [e["entity"] for e in entries])
    return answer["entries"]


def set_quota(parts, on=None, **values):
    with (on or broker).client(client_id="admin") as client:
        (answer,) = alter(client, entry(parts, **values))
        refused(answer, "NONE")
        equal(answer["error_message"], None)


def in_order(entries):
    return sorted(entries, key=str)


def describe(client, *components, version=1, strict=False):
    answer = client.ask("DescribeClientQuotas", version, strict=strict, components=[
        dict(entity_type=t, match_type=m, match=n) for t, m, n in components])
    refused(answer, "NONE")
    return in_order(([(p["entity_type"], p["entity_name"]) for p in e["entity"]],
                     {v["key"]: v["value"] for v in e["values"]}) for e in answer["entries"])


def clear(on=None):
    with (on or broker).client(client_id="admin") as client:
        for parts, values in describe(client):
            named = {t.replace("-", "_"): n for t, n in parts}
            alter(client, entry(named, **dict.fromkeys(values)))
        equal(describe(client), [])


def metric(name, on=None):
    text = read((on or broker).path(".kqfs", "metrics")).decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


# --- Setting and showing ---

def test_what_is_set_is_shown():
    with broker.client() as client:
        for version in (0, 1):
            equal(describe(client, version=version), [])
            answers = alter(client, entry(dict(user="alice"), **{PRODUCE: 1000, REQUEST: 12.5}),
                            entry(dict(user=DEFAULT, client_id="c"), **{FETCH: 7}),
                            entry(dict(client_id=DEFAULT), **{FETCH: 9}), version=version)
            for answer in answers:
                refused(answer, "NONE")
            equal(describe(client, version=version), in_order([
                ([("user", "alice")], {PRODUCE: 1000, REQUEST: 12.5}),
                ([("user", None), ("client-id", "c")], {FETCH: 7}),
                ([("client-id", None)], {FETCH: 9})]))
            equal(metric("kqfs_quota_entities"), 3)
            alter(client, entry(dict(user="alice"), **{PRODUCE: None}), version=version)
            equal(describe(client, ("user", EXACT, "alice"), version=version),
                  [([("user", "alice")], {REQUEST: 12.5})])
            clear()


def test_the_filter():
    alice, pair = dict(user="alice"), dict(user="alice", client_id="c")
    everybody, anyones = dict(user=DEFAULT), dict(client_id="c")
    for parts in (alice, pair, everybody, anyones):
        set_quota(parts, **{FETCH: 1})

    def shown(*components, strict=False):
        return [e for e, _ in describe(client, *components, strict=strict)]

    a, p, d, c = ([("user", "alice")], [("user", "alice"), ("client-id", "c")], [("user", None)],
                  [("client-id", "c")])
    with broker.client() as client:
        equal(len(shown()), 4)
        equal(shown(strict=True), [])
        equal(shown(("user", EXACT, "alice")), in_order([a, p]))
        equal(shown(("user", EXACT, "alice"), strict=True), [a])
        equal(shown(("user", DEFAULTS, None)), [d])
        equal(len(shown(("user", SPECIFIED, None))), 3)
        equal(len(shown(("user", SPECIFIED, None), strict=True)), 2)
        equal(shown(("client-id", EXACT, "c")), in_order([c, p]))
        equal(shown(("client-id", SPECIFIED, None), strict=True), [c])
        equal(shown(("client-id", EXACT, "c"), ("user", SPECIFIED, None)), [p])
        equal(shown(("client-id", DEFAULTS, None)), [])
        equal(shown(("ip", SPECIFIED, None)), [])
    clear()


def test_a_filter_that_says_nothing():
    with broker.client() as client:
        for components, wanted in (
                ([("", SPECIFIED, None)], "INVALID_REQUEST"),
                ([("group", SPECIFIED, None)], "UNSUPPORTED_VERSION"),
                ([("user", 3, None)], "INVALID_REQUEST"),
                ([("user", EXACT, None)], "INVALID_REQUEST"),
                ([("user", DEFAULTS, "x")], "INVALID_REQUEST"),
                ([("user", SPECIFIED, "x")], "INVALID_REQUEST"),
                ([("user", EXACT, "x"), ("user", EXACT, "y")], "INVALID_REQUEST"),
                ([("user", EXACT, "x"), ("ip", EXACT, "y")], "INVALID_REQUEST")):
            answer = client.ask("DescribeClientQuotas", 1, components=[
                dict(entity_type=t, match_type=m, match=n) for t, m, n in components])
            refused(answer, wanted)
            equal(answer["entries"], None)
            check(answer["error_message"])


def test_what_is_refused_and_what_beside_it_is_done():
    good = entry(dict(user="good"), **{FETCH: 5})
    bad = [
        dict(entity=[], ops=good["ops"]),
        entry(dict(group="x"), **{FETCH: 5}),
        entry(dict(ip="127.0.0.1"), connection_creation_rate=5),
        entry(dict(user=""), **{FETCH: 5}),
        entry(dict(user="a\0b"), **{FETCH: 5}),
        dict(entity=entity(user="a") * 2, ops=good["ops"]),
        entry(dict(user="b"), **{FETCH: 0.0}),
        entry(dict(user="b"), **{FETCH: -1}),
        entry(dict(user="b"), **{FETCH: 1.5}),
        entry(dict(user="b"), **{FETCH: float("nan")}),
        entry(dict(user="b"), **{FETCH: 1e19}),
        entry(dict(user="b"), **{REQUEST: float("inf")}),
        entry(dict(user="b"), whatever=1),
        entry(dict(user="b"), controller_mutation_rate=1),
        entry(dict(user="b"), **{PRODUCE: 5, FETCH: 0.0}),
        dict(entity=entity(user="b"), ops=good["ops"] * 2),
        entry(dict(user="twice"), **{FETCH: 1}),
        entry(dict(user="twice"), **{FETCH: 2}),
    ]
    with broker.client() as client:
        *answers, last = alter(client, *bad, good)
        for answer in answers:
            refused(answer, "INVALID_REQUEST")
            check(answer["error_message"], answer)
        refused(last, "NONE")
        equal(describe(client), [([("user", "good")], {FETCH: 5})])
        (answer,) = alter(client, entry(dict(user="nobody-has-one"), **{FETCH: None}, whatever=None))
        refused(answer, "NONE")
        (answer,) = alter(client, entry(dict(user="good"), **{FETCH: 8}), validate_only=True)
        refused(answer, "NONE")
        equal(describe(client), [([("user", "good")], {FETCH: 5})])
    clear()


def test_there_is_an_end_to_entities():
    with broker.client() as client:
        many = [entry(dict(user=f"u{i}"), **{FETCH: 5}) for i in range(51)]
        for answer in alter(client, *many):
            refused(answer, "POLICY_VIOLATION")
            check("quota.max.entities" in answer["error_message"])
        for answer in alter(client, *many[:50]):
            refused(answer, "NONE")
        equal(len(describe(client)), 50)
    clear()


def test_only_who_owns_the_root_may():
    with Server("rights", ["--plaintext.user", "nobody"]) as guarded, guarded.client() as client:
        (answer,) = alter(client, entry(dict(user="x"), **{FETCH: 5}))
        refused(answer, "CLUSTER_AUTHORIZATION_FAILED")
        answer = client.ask("DescribeClientQuotas", 1, components=[])
        refused(answer, "CLUSTER_AUTHORIZATION_FAILED")
        equal(answer["entries"], None)
        check(not os.path.exists(os.path.join(guarded.data, "kqfs-quotas.json")))


def test_quotas_survive_stop_and_kill():
    kept = Server("kept", config=WINDOWS)
    with kept:
        set_quota(dict(user=DEFAULT, client_id='<default> "ä"'), on=kept, **{FETCH: 3})
        kept.restart()
        set_quota(dict(client_id="x"), on=kept, **{REQUEST: 1 / 3})
        kept.kill()
        kept.clean_mount()
        kept.start()
        with kept.client() as client:
            equal(describe(client), [
                ([("client-id", "x")], {REQUEST: 1 / 3}),
                ([("user", None), ("client-id", '<default> "ä"')], {FETCH: 3})])
        with open(os.path.join(kept.data, "kqfs-quotas.json"), encoding="utf-8") as file:
            equal(len(json.load(file)["quotas"]), 2)


# --- Producing ---

def send(client, size, acks=-1, version=9):
    """One Produce of about SIZE bytes. Returns what the answer says of throttling."""
    sent = client.send("Produce", version, acks=acks, timeout_ms=10000, topic_data=[
        dict(name="t", partition_data=[dict(index=0, records=batch([Record(b"x" * size)]))])])
    if acks == 0:
        return None
    answer = client.receive(sent)
    refused(answer["responses"][0]["partition_responses"][0], "NONE")
    return answer["throttle_time_ms"]


def a_topic():
    if not os.path.exists(broker.path("t")):
        broker.topic("t")


def silence(client):
    """For how many milliseconds the client is not heard from now on, as far as it can tell."""
    begin = time.monotonic()
    client.ask("Heartbeat", 4, group_id="g", member_id="m")
    return (time.monotonic() - begin) * 1000


def test_a_producer_is_answered_at_once_and_then_not_heard():
    a_topic()
    set_quota(dict(client_id="fast"), **{PRODUCE: 20000})
    overdrawn = metric("kqfs_quota_overdrawn_total{quota=\"producer_byte_rate\"}")
    with broker.client(client_id="fast") as fast, broker.client(client_id="other") as other:
        held = send(fast, 40000)  # where 20000 are allowed: a second
        check(1000 <= held <= 1020, held)
        check(metric("kqfs_quota_overdrawn_total{quota=\"producer_byte_rate\"}") == overdrawn + 1)
        equal(send(other, 100000), 0)
        equal(broker.metric("kqfs_quota_accounts"), 1)
        check(silence(fast) >= held - 100)
    equal(sum(len(line) for line in read(broker.path("t", "p0")).split(b"\n")), 140000)
    clear()
    equal(broker.metric("kqfs_quota_accounts"), 0)


def test_without_an_answer_a_producer_is_not_heard_either():
    a_topic()
    set_quota(dict(client_id="quiet"), **{PRODUCE: 20000})
    with broker.client(client_id="quiet") as quiet:
        send(quiet, 40000, acks=0)
        check(silence(quiet) >= 900)
    clear()


def test_what_was_sent_already_waits():
    """Requests in flight, and half of one: their time to arrive begins when they are heard."""
    with Server("slow", ["--socket.request.timeout.ms", "700"], config=WINDOWS) as slow:
        slow.topic("t")
        set_quota(dict(client_id="fast"), on=slow, **{PRODUCE: 20000})
        with slow.client(client_id="fast") as fast:
            record = batch([Record(b"x" * 40000)])
            fast.socket = Together(fast.socket)
            sent = [fast.send("Produce", 9, acks=-1, timeout_ms=1000, topic_data=[
                dict(name="t", partition_data=[dict(index=0, records=record)])])]
            sent.append(fast.send("Heartbeat", 4, group_id="g", member_id="m"))
            # Of the third request two bytes are missing.
            fast.socket.sendall(b"\0\0\0\x0c" + struct.pack(">hhih", 18, 0, 3, 2))
            fast.socket = fast.socket.flush()
            check(fast.receive(sent[0])["throttle_time_ms"] >= 900)
            fast.receive(sent[1])
            fast.socket.sendall(b"ab")
            equal(struct.unpack(">ii", fast.read(8))[1], 3)


class Together:
    """A socket that sends all at once, so that the broker reads it at once."""

    def __init__(self, to):
        self.to, self.data = to, b""

    def sendall(self, data):
        self.data += data

    def flush(self):
        self.to.sendall(self.data)
        return self.to


def test_a_user_is_one_account_whatever_its_clients_are_called():
    me = pwd.getpwuid(os.getuid()).pw_name
    a_topic()
    set_quota(dict(user=me), **{PRODUCE: 20000})
    set_quota(dict(client_id=DEFAULT), **{PRODUCE: 10 ** 9})
    set_quota(dict(user=me, client_id="special"), **{PRODUCE: 10 ** 9})
    with broker.client(client_id="a") as a, broker.client(client_id="b") as b, \
            broker.client(client_id="special") as special:
        check(send(a, 100000) > 0)
        equal(send(special, 100000), 0)
        check(send(b, 100) > 0)
        equal(send(special, 100000), 0)
    clear()


# --- Fetching ---

def fill(topic, count, size):
    broker.topic(topic)
    with broker.client() as client:
        for _ in range(count):
            refused(produce(client, topic, batch([Record(b"y" * size)])), "NONE")


def drain(client, topic, count, version=11):
    """Fetches all messages, as a consumer does. Returns the answers: (throttled, bytes)."""
    offset, answers = 0, []
    while offset < count:
        answer = client.ask("Fetch", version, **fetch_request(topic, offset))
        refused(answer, "NONE")
        if answer["throttle_time_ms"] and not answer["responses"]:
            answers.append((answer["throttle_time_ms"], 0))
            continue
        data = answer["responses"][0]["partitions"][0]["records"]
        answers.append((answer["throttle_time_ms"], len(data)))
        offset += len(records(data))
    return answers


def test_a_consumer_gets_nothing_while_it_has_had_too_much():
    fill("fetched", 12, 5000)
    set_quota(dict(client_id="hungry"), **{FETCH: 20000})
    with broker.client(client_id="hungry") as hungry, broker.client(client_id="other") as other:
        begin = time.monotonic()
        answers = drain(hungry, "fetched", 12)
        took = time.monotonic() - begin
        equal([t for t, _ in drain(other, "fetched", 12)], [0])
    got = [n for _, n in answers if n]
    check(max(got) <= 20000, got)
    check(sum(got) > 60000)
    check(took >= 1.5, took, answers)  # 60000 bytes, of which 20000 come at once, 20000 a second
    empty = [t for t, n in answers if not n]
    check(empty and all(0 < t <= 2000 for t in empty), answers)
    check(metric("kqfs_quota_held_seconds_total{quota=\"consumer_byte_rate\"}") > 0)
    clear()


def test_a_batch_that_is_more_than_all_windows_allow_comes_all_the_same():
    fill("large", 3, 20000)
    set_quota(dict(client_id="small"), **{FETCH: 10000})
    with broker.client(client_id="small") as small:
        answers = drain(small, "large", 3)
    equal(len([n for _, n in answers if n]), 3)
    clear()


def test_a_consumer_that_finds_nothing_is_not_charged():
    fill("empty", 1, 10)
    set_quota(dict(client_id="poor"), **{FETCH: 1})
    with broker.client(client_id="poor") as poor:
        for _ in range(5):
            answer = poor.ask("Fetch", 11, **fetch_request("empty", 1))
            equal(answer["throttle_time_ms"], 0)
            equal(len(answer["responses"]), 1)
    clear()


# --- A thread's time ---

def test_request_time_is_charged_to_every_request():
    set_quota(dict(client_id="busy"), **{REQUEST: 0.0001})
    with broker.client(client_id="busy") as busy, broker.client(client_id="other") as other:
        held = 0
        for _ in range(3):
            answer = busy.ask("Metadata", 9, topics=None)
            held = max(held, answer["throttle_time_ms"])
        equal(held, 1000)  # one window, however much it was
        check(silence(busy) >= 900)
        equal(other.ask("Metadata", 9, topics=None)["throttle_time_ms"], 0)
    clear()


def test_versions_that_cannot_say_it_are_held_all_the_same():
    set_quota(dict(client_id="old"), **{REQUEST: 0.0001})
    with broker.client(client_id="old") as old:
        for _ in range(2):
            answer = old.ask("Metadata", 1, topics=None)
        check("throttle_time_ms" not in answer or answer["throttle_time_ms"] == 0)
        check(silence(old) >= 900)
    clear()


# --- The mount ---

def test_the_mount_has_no_quotas():
    broker.topic("files")
    set_quota(dict(user=DEFAULT), **{PRODUCE: 1, FETCH: 1, REQUEST: 0.001})
    overdrawn = metric("kqfs_quota_overdrawn_total{quota=\"producer_byte_rate\"}")
    append(broker.path("files", "p0"), b"z" * 100000 + b"\n")
    equal(len(read(broker.path("files", "p0"))), 100001)
    equal(metric("kqfs_quota_overdrawn_total{quota=\"producer_byte_rate\"}"), overdrawn)
    clear()


# --- Many at once ---

def test_many_clients_while_quotas_come_and_go():
    a_topic()
    over = threading.Event()
    failed = []

    def work(number):
        try:
            with broker.client(client_id=f"c{number}") as client:
                while not over.is_set():
                    send(client, 100)
                    client.ask("Fetch", 11, **fetch_request("t", 0, max_bytes=1000))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for i in range(40):
        set_quota(dict(client_id=f"c{i % 7}"), **{(PRODUCE, FETCH, REQUEST)[i % 3]:
                                                  10 ** 7 if i % 2 else None})
        set_quota(dict(client_id=DEFAULT), **{PRODUCE: 10 ** 6 if i % 3 else None})
    over.set()
    for thread in threads:
        thread.join()
    equal(failed, [])
    clear()


if __name__ == "__main__":
    mounted.main(broker)
