#!/usr/bin/python3
"""Listeners: which there are, what clients are told, who a client is, what fails at start."""

import socket

from mounted import *
from protocol import *

SOCKET = os.path.join(test_directory(), "k.sock")
broker = Server("b", ["--listen", f"unix://{SOCKET}",
                      "--listen", "plaintext://[::1]:0",
                      "--listen", "plaintext://127.0.0.1:0,advertised=broker.example:7777"])


class UnixClient(Client):
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.client_id, self.correlation = "test", 0


def listening(scheme, number=0):
    """The address that the broker says it listens at."""
    return re.findall(rf"listening at {scheme}://(\S+)", broker.log())[number]


def told(client):
    """Where the client is told to connect."""
    with client:
        answer = client.ask("Metadata", 1, topics=[])
        return answer["brokers"][0]["host"], answer["brokers"][0]["port"]


def run(*options, wait=True):
    """The command with these options, without a mount."""
    data = os.path.join(test_directory(), "alone")
    command = [os.environ["KQFS_BIN"], "--data", data, *options]
    if not wait:
        return subprocess.Popen(["env", *command], stdin=subprocess.DEVNULL, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=30)


# --- Addresses ---

def test_clients_are_told_the_address_that_they_have_used():
    host, port = broker.address.split(":")
    equal(told(broker.client()), (host, int(port)))


def test_clients_are_told_what_is_advertised():
    port = listening("plaintext", 2).split(":")[1]
    check(port != "0", "which port it is stands in the log")
    equal(told(Client(f"127.0.0.1:{port}")), ("broker.example", 7777))


def test_ipv6():
    if not socket.has_ipv6:
        raise Skip("no IPv6 here")
    port = int(listening(r"plaintext", 1).rsplit(":", 1)[1])
    with socket.create_connection(("::1", port)) as sock:
        client = Client.__new__(Client)
        client.socket, client.client_id, client.correlation = sock, "test", 0
        equal(told(client), ("::1", port))


def test_a_unix_socket():
    equal(told(UnixClient(SOCKET))[0], "localhost")
    equal(stat.S_IMODE(os.stat(SOCKET).st_mode), 0o666)


def test_the_configuration_shows_them():
    text = read(broker.path(".kqfs", "config")).decode()
    line = next(l for l in text.splitlines() if l.startswith("listen = "))
    check(f"unix://{SOCKET}" in line, line)
    check("advertised=broker.example:7777" in line, line)


# --- Who a client is ---

NOBODY = (54321, 54321, [])


def outcome(make_client, topic):
    """Error codes of one's attempts to produce to and to read from TOPIC."""
    with make_client() as client:
        wrote = produce(client, topic, batch([Record(b"x")]))
        got = fetch(client, topic, 0, 11)
        return ERRORS[wrote["error_code"]], ERRORS[got["error_code"]]


def test_over_loopback_and_unix_a_client_is_its_user():
    need_root()
    topic = broker.topic("mine")
    refusal = "TOPIC_AUTHORIZATION_FAILED"
    for make in broker.client, lambda: UnixClient(SOCKET):
        os.chmod(os.path.join(topic, "p0"), 0o644)
        equal(outcome(make, "mine"), ("NONE", "NONE"))
        equal(as_user(NOBODY, outcome, make, "mine"), (refusal, "NONE"))
        os.chmod(os.path.join(topic, "p0"), 0o600)
        equal(as_user(NOBODY, outcome, make, "mine"), (refusal, refusal))
        os.chown(os.path.join(topic, "p0"), 54321, -1)
        equal(as_user(NOBODY, outcome, make, "mine"), ("NONE", "NONE"))
        os.chown(os.path.join(topic, "p0"), 0, 77777)
        os.chmod(os.path.join(topic, "p0"), 0o660)
        equal(as_user(NOBODY, outcome, make, "mine"), (refusal, refusal))
        os.chown(os.path.join(topic, "p0"), 0, 0)


def test_groups_count():
    need_root()
    topic = broker.topic("ours")
    os.chown(os.path.join(topic, "p0"), 0, 77777)
    os.chmod(os.path.join(topic, "p0"), 0o660)
    member = (54322, 54322, [77777])
    # The kernel hands over what groups the process has …
    equal(as_user(member, outcome, lambda: UnixClient(SOCKET), "ours"), ("NONE", "NONE"))
    # … but of a TCP socket only the user, whose groups are those of the user data base.
    equal(as_user(member, outcome, broker.client, "ours")[0], "TOPIC_AUTHORIZATION_FAILED")


def test_a_user_for_all_of_plaintext():
    need_root()
    with Server("all", ["--plaintext.user", "54321"]) as server:
        topic = server.topic("theirs")
        os.chmod(os.path.join(topic, "p0"), 0o600)
        equal(outcome(server.client, "theirs")[0], "TOPIC_AUTHORIZATION_FAILED")
        os.chown(os.path.join(topic, "p0"), 54321, -1)
        equal(outcome(server.client, "theirs"), ("NONE", "NONE"))


# --- At start ---

def test_an_address_in_use_is_one_line_and_a_status_of_its_own():
    for url in f"plaintext://{broker.address}", f"unix://{SOCKET}":
        done = run("--no-mount", "--listen", url)
        equal(done.returncode, 8, done.stderr)
        equal(len(done.stderr.splitlines()), 1, done.stderr)
        check("Address already in use" in done.stderr and url in done.stderr, done.stderr)
    with UnixClient(SOCKET) as client:
        client.ask("ApiVersions", 0)


def test_what_is_no_address_is_a_usage_error():
    for url in "nonsense", "ssl://127.0.0.1:9093", "plaintext://127.0.0.1", "unix://relative":
        done = run("--no-mount", "--listen", url)
        equal(done.returncode, 2, done.stderr)
        equal(len(done.stderr.splitlines()), 1, done.stderr)
    done = run("--no-mount", "--listen", "plaintext://127.0.0.1:0", "--plaintext.user", "no one")
    equal(done.returncode, 2, done.stderr)


def test_who_is_nobody_is_said_at_start():
    process = run("-f", "--no-mount", "--listen", "plaintext://0.0.0.0:0", wait=False)
    lines = [process.stderr.readline() for _ in range(2)]
    process.terminate()
    equal(process.wait(30), 0)
    check("plaintext.user" in lines[0] and "listening at" in lines[1], lines)
    process.stdout.close()
    process.stderr.close()


def test_without_a_mount_it_serves_goes_to_the_background_and_stops():
    path = os.path.join(test_directory(), "alone.sock")
    done = run("--no-mount", "--listen", f"unix://{path}", "--foreground=false")
    equal((done.returncode, done.stderr), (0, ""))
    client = UnixClient(path)
    refused(produce_to_new(client), "NONE")
    credentials = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = struct.unpack("3i", credentials)[0]
    os.kill(pid, signal.SIGTERM)
    client.socket.settimeout(30)
    equal(client.socket.recv(1), b"")
    client.close()
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the broker to end")
    check(not os.path.exists(path), "the socket is left")


def produce_to_new(client):
    topic = f"new{os.getpid()}"
    until(lambda: client.ask("Metadata", 4, topics=[dict(name=topic)],
                             allow_auto_topic_creation=True)["topics"][0]["error_code"] == 0,
          "the topic to be made")
    return produce(client, topic, batch([Record(b"x")]))


def test_a_stale_socket_is_replaced():
    path = os.path.join(test_directory(), "stale.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    process = run("-f", "--no-mount", "--listen", f"unix://{path}", wait=False)
    process.stderr.readline()
    with UnixClient(path) as client:
        client.ask("ApiVersions", 0)
    process.kill()  # leaves it behind
    process.wait()
    check(os.path.exists(path), "who was killed cannot clean up")
    process.stdout.close()
    process.stderr.close()


if __name__ == "__main__":
    main(broker)
