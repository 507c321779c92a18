#!/usr/bin/python3
"""The examples do what their first lines say."""

import errno
import os

import mounted
from mounted import *

broker = Broker("b", options=["-o", "allow_other"] if os.geteuid() == 0 else [])
EXAMPLES = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", "examples"))


def example(name):
    return os.path.join(EXAMPLES, name)


def test_ship_goes_on_where_it_was_stopped():
    topic = broker.topic("shipped")
    target = scratch("ship") + "/copy"
    append(f"{topic}/p0", lines(100))
    with Follower(example("ship"), f"{topic}/p0", target):
        until(lambda: os.path.exists(target) and os.path.getsize(target) == len(lines(100)), "100")
    append(f"{topic}/p0", lines(100, 100))
    broker.restart()
    with Follower(example("ship"), f"{topic}/p0", target):
        append(f"{topic}/p0", lines(100, 200))
        until(lambda: os.path.getsize(target) >= len(lines(300)), "300 lines")
    equal(read(target), lines(300))


def test_consume_new_prints_each_message_once_and_skips_what_is_gone():
    need("jq", "getfattr")
    topic = broker.topic("consumed")
    state = scratch("consume") + "/state"
    command = f"{example('consume-new')} {topic}/p0 {state}"
    equal(sh(command), b"")
    append(f"{topic}/p0", lines(5))
    equal(sh(command), lines(5))
    equal(sh(command), b"")
    append(f"{topic}/p0", lines(5, 5))
    equal(sh(command), lines(5, 5))
    append(f"{topic}/p0", lines(5, 10))
    os.unlink(f"{topic}/p0")
    append(f"{topic}/p0", lines(5, 15))
    equal(sh(command), lines(5, 15))


def test_report_counts_messages_and_bytes():
    need("jq")
    topic = broker.topic("reported")
    append(f"{topic}/p0.jsonl", '{"timestamp":1700000000000,"value":"abc"}\n'
                                '{"timestamp":1700000001000,"value":"de"}\n'
                                '{"timestamp":1700010000000,"value":null}\n')
    equal(sh(f"{example('report')} {topic}/p0").decode().splitlines(),
          ["2023-11-14T22:00:00Z 2 5", "2023-11-15T01:00:00Z 1 0"])


def test_grant_lets_a_user_read_or_append():
    need_root()
    need("setfacl")
    nobody = (65534, 65534, [])
    topic = broker.topic("granted")
    append(f"{topic}/p0", "secret\n")
    os.chmod(f"{topic}/p0", 0o600)
    refused(errno.EACCES, as_user, nobody, read, f"{topic}/p0")
    sh(f"{example('grant')} read nobody {topic}")
    equal(as_user(nobody, read, f"{topic}/p0"), b"secret\n")
    refused(errno.EACCES, as_user, nobody, append, f"{topic}/p0", "more\n")
    sh(f"{example('grant')} append nobody {topic}")
    as_user(nobody, append, f"{topic}/p0", "more\n")
    # A partition that is added later grants the same.
    sh(f"touch {topic}/p1")
    as_user(nobody, append, f"{topic}/p1", "more\n")


if __name__ == "__main__":
    mounted.main(broker)
