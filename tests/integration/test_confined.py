#!/usr/bin/python3
# kqfs-test: timeout=400
"""A broker that root starts and that gives root's rights up: --user."""

import errno
import os
import re
import resource
import signal
import socket
import subprocess

import mounted
from mounted import *
from protocol import Record, Server, batch, fetch, metadata, produce

USER = "nobody"
UID, GID = 65534, 65534
OTHER = (2003, 3003, [])


def prepare():
    need_root()
    binary = os.environ["KQFS_BIN"]
    # Sanitizers trace their own process at its end, which no confined process may.
    os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
    return binary


def broker_of(name, *options, **named):
    prepare()
    return Broker(name, options=["--user", USER, *options], **named)


def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def helper_of(broker):
    """The pid of its helper."""
    path = f"/proc/{broker.process.pid}/task/{broker.process.pid}/children"
    if os.path.exists(path):
        children = read(path).split()
    else:
        children = sh(f"ps -o pid= --ppid {broker.process.pid}").split()
    equal(len(children), 1, "children of the broker")
    return int(children[0])


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def need_seccomp():
    need_feature("seccomp", "libseccomp")
    if not os.path.exists("/proc/sys/kernel/seccomp"):
        raise Skip("this kernel has no seccomp")


def test_the_broker_has_no_rights_and_the_helper_few():
    with broker_of("rights") as broker:
        check("confined: user 65534" in broker.log(), broker.log())
        of = status(broker.process.pid)
        equal(of["Uid"].split(), [str(UID)] * 4)
        equal(of["Gid"].split(), [str(GID)] * 4)
        for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            equal(int(of[field], 16), 0, field)
        equal(of["NoNewPrivs"], "1")
        helper = status(helper_of(broker))
        equal(helper["Uid"].split()[1], "0")
        equal(helper["NoNewPrivs"], "1")
        # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN
        equal(int(helper["CapEff"], 16) & ~(1 << 1 | 1 << 2 | 1 << 21), 0)
        descriptors = [os.readlink(f"/proc/{helper_of(broker)}/fd/{fd}")
                       for fd in os.listdir(f"/proc/{helper_of(broker)}/fd")]
        check(not [d for d in descriptors if "fuse" in d or d.startswith(broker.data)], descriptors)
        equal(read(f"/proc/{broker.process.pid}/limits").split(b"Max core file size")[1].split()[0],
              b"0")


def use(broker):
    path = broker.topic("t", retention_bytes=-1)
    append(f"{path}/p0", lines(100))
    equal(read(f"{path}/p0"), lines(100))
    setfattr(path, "segment.bytes", 1048576)
    equal(getfattr(path, "segment.bytes"), "1048576")
    os.chmod(f"{path}/p0", 0o600)
    os.chown(f"{path}/p0", *OTHER[:2])
    refused(errno.EACCES, as_user, (2004, 3004, []), read, f"{path}/p0")
    equal(as_user(OTHER, read, f"{path}/p0"), lines(100))
    fd = os.open(f"{path}/p0", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"synced\n")
    os.fsync(fd)
    os.close(fd)
    equal(read(f"{path}/p0"), lines(100) + b"synced\n")
    sh(f"ls -laR {broker.mount} && cat {broker.mount}/.kqfs/metrics >/dev/null")


def test_the_mount_works_as_ever():
    with broker_of("mount") as broker:
        st = os.stat(broker.mount)
        equal((st.st_uid, st.st_gid), (UID, GID), "who owns the root of the tree")
        use(broker)
        os.mkdir(broker.path("u"))
        sh(f"rm -r {broker.path('u')}")
        check(not os.path.exists(broker.path("u")))
        broker.restart()
        equal(read(broker.path("t/p0")), lines(100) + b"synced\n")
        equal(os.stat(broker.path("t/p0")).st_uid, OTHER[0])
    check(not any(os.stat(os.path.join(top, name)).st_uid != UID
                  for top, below, files in os.walk(broker.data) for name in below + files),
          "files of others in the data directory")


def test_who_watches_the_log_is_told():
    with broker_of("watch") as broker:
        path = broker.topic("w")
        append(f"{path}/p0", b"one\n")
        os.chmod(path, 0o700)
        os.chown(f"{path}/p0", *OTHER[:2])  # the service user may not write to it
        with Follower("tail", "-n", "+1", "-F", f"{path}/p0.log") as tail:
            tail.until(lambda output: output.count(b"\n") == 1, "the first line")
            append(f"{path}/p0", b"two\n")
            tail.until(lambda output: output.count(b"\n") == 2, "the line that was appended")
        check("may miss appends" not in broker.log(), broker.log())


def test_retention_removes_segments():
    with broker_of("retention", "--log.retention.check.interval.ms", "100") as broker:
        path = broker.topic("r", segment_bytes=1048576)
        for _ in range(4):
            append(f"{path}/p0", lines(100000, width=10))
        setfattr(path, "retention.bytes", 1048576)
        segments = os.path.join(broker.data, "r-0")
        until(lambda: len([f for f in os.listdir(segments) if f.endswith(".log")]) <= 3,
              "old segments to go")


def test_a_unix_socket_serves_and_tcp_too():
    directory = scratch("sockets")
    os.chmod(directory, 0o755)
    socket_path = os.path.join(directory, "sock")
    with broker_of("wire", "--listen", "plaintext://127.0.0.1:0", "--listen",
                   f"unix://{socket_path}") as broker:
        port = int(re.search(r"listening at plaintext://127.0.0.1:(\d+)", broker.log())[1])
        os.mkdir(broker.path("n"))
        append(broker.path("n/p0"), b"over the wire\n")
        with socket.create_connection(("127.0.0.1", port)) as tcp:
            # ApiVersions v0, correlation 7, no client id
            tcp.sendall(bytes.fromhex("0000000a" "0012" "0000" "00000007" "ffff"))
            equal(tcp.recv(8)[4:], bytes.fromhex("00000007"))
        with socket.socket(socket.AF_UNIX) as local:
            local.connect(socket_path)
            local.sendall(bytes.fromhex("0000000a" "0012" "0000" "00000008" "ffff"))
            equal(local.recv(8)[4:], bytes.fromhex("00000008"))


def test_kill_9_of_the_broker_unmounts():
    broker = broker_of("killed").start()
    os.mkdir(broker.path("t"))
    append(broker.path("t/p0"), lines(10))
    helper = helper_of(broker)
    broker.process.kill()
    broker.process.wait()
    until(lambda: not is_mounted(broker.mount), "the helper to unmount")
    until(lambda: not alive(helper), "the helper to end")
    broker.kill()
    broker.start()
    equal(read(broker.path("t/p0")), lines(10))
    broker.stop()


def test_kill_9_of_the_helper_ends_the_broker_which_says_so():
    broker = broker_of("alone").start()
    os.mkdir(broker.path("t"))
    append(broker.path("t/p0"), lines(10))
    os.kill(helper_of(broker), signal.SIGKILL)
    equal(broker.process.wait(60), 1, "a failure, so that a service manager starts it again")
    Broker.running.remove(broker)
    check("the helper process has gone" in broker.log(), broker.log())
    check(f"umount -l {broker.mount}" in broker.log(), broker.log())
    subprocess.run(["umount", "-l", broker.mount], check=True)
    check(os.path.exists(os.path.join(broker.data, ".kafka_cleanshutdown")), "data not closed")
    broker.check_log()
    broker.start()
    equal(read(broker.path("t/p0")), lines(10))
    broker.stop()


def dumps_core(*command):
    """Does COMMAND leave a core when it dies of a signal? Not where this host keeps none."""
    process = subprocess.Popen(command, cwd=scratch("cores"))
    _, status_ = os.waitpid(process.pid, 0)
    process.returncode = -os.WTERMSIG(status_)
    return os.WCOREDUMP(status_)


def test_neither_a_core_nor_another_process_shows_its_memory():
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        broker = broker_of("core").start()
        dumps = dumps_core("sh", "-c", "kill -QUIT $$")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    pid, helper = broker.process.pid, helper_of(broker)
    for each in pid, helper:
        limit = read(f"/proc/{each}/limits").split(b"Max core file size")[1].split()[:2]
        equal(limit, [b"0", b"0"], each)
    equal(os.stat(f"/proc/{pid}/mem").st_uid, 0, "whose the memory is of what is not dumpable")
    refused(errno.EACCES, as_user, (UID, GID, []), read, f"/proc/{pid}/environ")
    os.kill(pid, signal.SIGQUIT)
    _, status_ = os.waitpid(pid, 0)
    broker.process.returncode = -os.WTERMSIG(status_)
    equal(os.WTERMSIG(status_), signal.SIGQUIT)
    check(not os.WCOREDUMP(status_), "a core was dumped")
    until(lambda: not is_mounted(broker.mount) and not alive(helper), "the helper to unmount")
    broker.kill()
    if not dumps:
        raise Skip("this host keeps no cores at all: only limits were seen")


def test_sigterm_leaves_no_mount_and_no_process():
    broker = broker_of("term").start()
    helper = helper_of(broker)
    os.kill(helper, signal.SIGTERM)  # as a service manager does it: to all at once
    broker.stop()
    check(not is_mounted(broker.mount))
    check(not alive(helper), "the helper is still there")


def test_an_unmount_from_outside_ends_both():
    broker = broker_of("unmounted").start()
    helper = helper_of(broker)
    subprocess.run(["fusermount3", "-u", broker.mount], check=True)
    equal(broker.process.wait(30), 0)
    check(not alive(helper), "the helper is still there")
    broker.stop()


def test_in_the_background_the_caller_is_let_go():
    broker = broker_of("background")
    done = subprocess.run([c for c in broker.command() if c != "-f"], capture_output=True,
                          timeout=60)
    equal(done.returncode, 0, done.stderr)
    check(is_mounted(broker.mount))
    use(broker)
    subprocess.run(["fusermount3", "-u", broker.mount], check=True)
    until(lambda: not sh(f"pgrep -f -- '--[d]ata {broker.data}' || true").strip(),
          "broker and helper to end")


def test_the_data_directory_of_another_is_refused_with_the_remedy():
    broker = broker_of("foreign")
    os.makedirs(broker.data)
    with open(os.path.join(broker.data, "file"), "w"):
        pass
    status_, said = broker.fails_to_start()
    equal(status_, 4, said)
    check(f"chown -R {UID}:{GID} {broker.data}" in said, said)
    sh(f"chown -R {UID}:{GID} {broker.data} && rm {broker.data}/file")
    broker.start()
    broker.stop()


def test_what_cannot_be_is_said():
    for options, wanted in ((["--user", "no-such-user"], "no such user"),
                            (["--user", "root"], "without rights"),
                            (["--user", USER, "--confine", "maybe"], "neither yes nor no"),
                            (["--helper", "/nowhere"], "needs the setting user")):
        need_root()
        broker = Broker("said", options=options)
        status_, said = broker.fails_to_start()
        equal(status_, 2, said)
        check(wanted in said, said)


def test_without_confinement_it_still_gives_up_its_rights():
    with broker_of("loose", "--confine", "no") as broker:
        of = status(broker.process.pid)
        equal((of["NoNewPrivs"], int(of["CapEff"], 16), of["Uid"].split()[0]), ("1", 0, str(UID)))
        use(broker)


def test_seccomp_holds_for_every_thread():
    need_seccomp()
    with broker_of("filtered") as broker:
        check("seccomp (" in broker.log(), broker.log())
        for process in broker.process.pid, helper_of(broker):
            for thread in os.listdir(f"/proc/{process}/task"):
                equal(status(f"{process}/task/{thread}")["Seccomp"], "2", thread)


def test_where_a_refused_call_ends_it_nothing_of_ours_is_refused():
    need_seccomp()
    with broker_of("strict", "--confine.action", "kill") as broker:
        use(broker)


def test_nor_of_what_clients_of_the_network_ask_for():
    need_seccomp()
    prepare()
    with Server("strictwire", ["--user", USER, "--confine.action", "kill"]) as broker, \
            broker.client() as client:
        equal(metadata(client, "t")["error_code"], 0)
        for _ in range(50):
            equal(produce(client, "t", batch([Record(b"v" * 1000)]))["error_code"], 0)
        append(broker.path("t/append"), lines(10))
        for offset in 0, 20, 55:
            got = fetch(client, "t", offset)
            equal((got["error_code"], got["high_watermark"]), (0, 60))
            check(got["records"], "records from", offset)
        equal(client.ask("FindCoordinator", 3, key="g", key_type=0)["error_code"], 0)
        equal(client.ask("DescribeCluster", 0)["error_code"], 0)
        equal(client.ask("InitProducerId", 4, transactional_id=None)["error_code"], 0)
        answer = client.ask("DeleteTopics", 5, topic_names=["t"], timeout_ms=10000)
        equal(answer["responses"][0]["error_code"], 0)
        check("was refused" not in broker.log(), broker.log())


def test_export_by_root_leaves_the_directory_to_its_owner():
    broker = broker_of("export").start()
    os.mkdir(broker.path("t"))
    append(broker.path("t/p0"), lines(10))
    broker.stop()
    sh(f"{os.environ['KQFS_BIN']} export --data {broker.data} --commands")
    broker.start()
    equal(read(broker.path("t/p0")), lines(10))
    broker.stop()


if __name__ == "__main__":
    mounted.main()
