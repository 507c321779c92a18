#!/usr/bin/python3
"""The examples do what their first lines say."""

import errno
import os
import re
import subprocess

import mounted
from mounted import *

broker = Broker("b", options=["-o", "allow_other"] if os.geteuid() == 0 else [])
EXAMPLES = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", "examples"))
WRAPPER = "/usr/lib/x86_64-linux-gnu/libnss_wrapper.so"


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


def readme_block(heading):
    """What a section of README has one type, as a script."""
    with open(os.path.join(EXAMPLES, "..", "README.md")) as file:
        section = re.search(rf"^## {heading}\n(.*?)(?=^## )", file.read(), re.M | re.S)
    check(section, "no such section in README")
    return "".join(line[4:] + "\n" for line in section[1].splitlines() if line.startswith("    "))


def with_users(directory, **uids):
    """The environment of a host that has these users too."""
    for kind, rest in (("passwd", "{0}::/:/bin/sh"), ("group", "")):
        with open(f"/etc/{kind}") as ours, open(f"{directory}/{kind}", "w") as file:
            file.write(ours.read())
            for name, uid in uids.items():
                file.write(f"{name}:x:{uid}:{rest.format(uid)}\n")
    return {"LD_PRELOAD": WRAPPER, "NSS_WRAPPER_PASSWD": f"{directory}/passwd",
            "NSS_WRAPPER_GROUP": f"{directory}/group"}


def test_what_readme_says_of_tls_lets_one_user_read_and_another_not():
    need("kcat", "openssl", "setfacl")
    home = scratch("tls")
    topics = os.path.join(home, "topics")
    if not os.path.exists(WRAPPER):
        raise Skip("not installed: libnss-wrapper")
    script = readme_block("Over TLS, for one user and not for another")
    equal(len(script.splitlines()), 10, "ten lines")
    environment = {**os.environ, **with_users(home, app1=5001, app2=5002), "HOME": home,
                   "PATH": f"{os.path.dirname(os.path.realpath(os.environ['KQFS_BIN']))}:{os.environ['PATH']}"}
    environment.pop("XDG_DATA_HOME", None)
    try:
        done = subprocess.run(["bash", "-c", script.replace("9093", str(free_port()))], cwd=home,
                              env=environment, capture_output=True, text=True, timeout=250)
    finally:
        if is_mounted(topics):
            broker_pid = read(f"{topics}.data/.lock").decode().strip()
            sh(f"fusermount3 -u {topics}")
            until(lambda: not os.path.exists(f"/proc/{broker_pid}"), "the broker to end")
    equal(done.stdout, "one coffee\n", done.stderr)
    check("Broker: Topic authorization failed" in done.stderr, "app2 was not refused", done.stderr)


def test_the_sample_configuration_is_taken_with_all_that_it_comments_out():
    need("openssl")
    home = scratch("sample")
    with open(os.path.join(EXAMPLES, "../packaging/kqfs.conf.example")) as file:
        text = re.sub(r"^;([a-z\[])", r"\1", file.read(), flags=re.M)
    # What this host has none of: Kerberos, issuers, lists of what was revoked.
    for mine, there in ((r"/etc/kqfs/(broker|clients-ca)", rf"{home}/\1"), (r"://:\d+", "://127.0.0.1:0"),
                        (r"unix:///run/kqfs", f"unix://{home}"), (" GSSAPI OAUTHBEARER", ""), (r"\ncrl = .*", ""),
                        (r"data = \S+", f"data = {home}/data"), (r"mountpoint = \S+", f"mountpoint = {home}"),
                        (r"allow_other", "fsname=sample")):
        check(re.search(mine, text), "the sample has no", mine)
        text = re.sub(mine, there, text)
    for name in "broker", "clients-ca":
        sh(f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout "
           f"{home}/{name}.key -out {home}/{name}.pem 2>&1")
    sampled = Broker("sample-broker", config=text).start()
    shown = read(sampled.path(".kqfs/config")).decode()
    for line in ("client_authentication = required", "mechanisms = SCRAM-SHA-256 SCRAM-SHA-512", "app1 = 5001"):
        check(line in shown, line, "is not in", shown)
    sampled.stop()


if __name__ == "__main__":
    mounted.main(broker)
