"""The loop of a driver in Python: one command a line from stdin, one answer a line to stdout.

A driver puts one Kafka client behind the same few commands, so that scenarios.py can run every
client through the same scenarios. Bytes travel as base64; null stays null. Commands:

    produce      topic, partition (null: the client picks), messages [{key, value, headers [[name,
                 value]], timestamp (ms or null)}], codec (none, gzip, snappy, lz4, zstd), acks (0, 1,
                 -1), idempotent -> offsets [n or -1]
    numbers      topic, partition, first, count, idempotent: the values first … first + count - 1 in
                 order, retried until the broker has them -> acknowledged
    transaction  topic, partition, id (transactional), messages, codec, end ("commit", "abort", "open": left
                 so) -> offsets [n]
    consume      topic, partition, from ("earliest", "latest", {"offset": n}, {"time": ms}), count,
                 timeout_ms: assigned, no group -> messages [{offset, timestamp, key, value, headers}]
                 (Java also takes isolation "read_committed", and count -1: all there are)
    join         group, topic, instance (null: a dynamic member), begins to consume as a member
    poll         timeout_ms, count: what arrived since -> messages, assigned [partitions]
    commit       what poll handed out -> (nothing)
    leave        -> (nothing)
    committed    group, topic, partitions -> offsets [n or -1]
    set_offset   group, topic, partition, offset (no member is alive) -> (nothing)
    create       topic, partitions, config {} ; delete topic ; add_partitions topic, count (in all)
    alter        topic, config {}: those values, others stay ; describe topic -> config {}
    delete_records  topic, partition, before -> (nothing)
    topics       -> topics [] ; groups -> groups []
    describe_group  group -> state, members (how many)
    delete_group group
    secure       what all commands after it use: bootstrap, protocol (SSL, SASL_SSL), ca, certificate
                 and key (files, or null), mechanism, user, password, token (a file), principal, keytab,
                 service, krb5 (a file) -> (nothing). consume then takes the name of a group that is
                 there, for clients that cannot do without one; topics fails as soon as the client
                 cannot log in, with the reason.

An answer has "error" with the client's text where the command failed, "unsupported" with the reason
where this client cannot be asked for it.
"""

import base64
import json
import sys


class Unsupported(Exception):
    pass


def b64(value):
    return None if value is None else base64.b64encode(value).decode()


def raw(text):
    return None if text is None else base64.b64decode(text)


def serve(make):
    """MAKE(bootstrap) gives an object with a method a command; a missing one is unsupported."""
    client = make(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        try:
            method = getattr(client, name, None)
            if method is None:
                raise Unsupported("the client has no such call")
            answer = method(**command) or {}
        except Unsupported as reason:
            answer = {"unsupported": str(reason)}
        except Exception as error:  # the client's own, of whatever kind: the scenario judges it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
