#!/usr/bin/python3
"""Lines of the audit log: logins, what is denied and what is allowed, and by what setting. And the
groups of those who are connected: who is added to one or taken out of it gains or loses what it
grants, on the connection that is open."""

import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess

from mounted import *
from protocol import *
from scram import log_in

need_root()
need("openssl", "unshare")
USER = "games"  # every Debian has it
PASSWORD = "secret"


class AuditBroker:
    """Without a mount, with the host's groups in a file of its own."""

    def __init__(self, name, log="denied", refresh=60000, tls=None, more=()):
        directory = os.path.join(test_directory(), name)
        os.makedirs(directory)
        self.groups, self.log_path = f"{directory}/group", f"{directory}/log"
        self.unix = f"{directory}/socket"
        shutil.copy("/etc/group", self.groups)
        data = f"{directory}/data"
        self.plain, self.sasl, self.tls = (f"127.0.0.1:{free_port()}" for _ in range(3))
        kqfs = os.environ["KQFS_BIN"]
        subprocess.run([kqfs, "passwd", "--data", data, USER], input=PASSWORD.encode() + b"\n", check=True,
                       capture_output=True, timeout=60)
        command = [kqfs, "-f", "--no-mount", "--data", data, "--create.umask", "0027",
                   "--principal.refresh.ms", str(refresh), "--audit.log", log, "--audit.max.lines.per.second",
                   "1000", "--listen", (f"ssl://{self.tls}{tls} " if tls else "")
                   + f"plaintext://{self.plain} sasl_plaintext://{self.sasl} unix://{self.unix}", *more]
        with open(self.log_path, "wb") as file:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-ec",
                 'mount --bind "$0" /etc/group; exec "$@"', self.groups, *command],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        until(lambda: f"listening at unix://{self.unix}" in self.log() or self.process.poll() is not None,
              "the broker to listen")
        if self.process.poll() is not None and re.search("unshare|mount:", self.log()):
            raise Skip("no mount namespace of one's own here")
        equal(self.process.poll(), None, self.log())

    def log(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def awaits(self, pattern):
        until(lambda: re.search(pattern, self.log(), re.M), f"a line {pattern}")

    def set_members(self, group, *members):
        """In place: the file is a mount elsewhere."""
        with open(self.groups) as file:
            lines = [":".join([*line.split(":")[:3], ",".join(members)]) + "\n"
                     if line.startswith(group + ":") else line for line in file]
        with open(self.groups, "r+") as file:
            file.write("".join(lines))
            file.truncate()

    def user(self):
        client = Client(self.sasl)
        equal(log_in(client, PASSWORD, USER)["error_code"], 0)
        return client

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        equal(self.process.wait(60), 0, self.log()[-2000:])


class UnixClient(Client):
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.client_id, self.correlation = "test", 0


def fetch_error(client, name, wait=0, sent=None):
    sent = sent or client.send("Fetch", 11, max_wait_ms=wait, min_bytes=1, max_bytes=1 << 20, session_epoch=-1,
                               topics=[dict(topic=name, partitions=[
                                   dict(partition=0, fetch_offset=0, partition_max_bytes=1000)])])
    return ERRORS[client.receive(sent)["responses"][0]["partitions"][0]["error_code"]]


def create(client, name):
    answer = client.ask("CreateTopics", 5, topics=[dict(name=name, num_partitions=1, replication_factor=1)],
                        timeout_ms=60000)
    equal(answer["topics"][0]["error_code"], 0, answer)


def test_logins_and_what_is_denied_are_lines():
    with AuditBroker("denied") as broker:
        with Client(broker.plain) as root:
            create(root, "private")
        with Client(broker.sasl, client_id="intruder") as client:
            equal(log_in(client, "wrong", USER)["error_code"], 58)
        broker.awaits(rf'^kqfs: audit: denied request=SaslAuthenticate code=SASL_AUTHENTICATION_FAILED '
                      rf'principal="User:{USER}" uid=-1 peer=127\.0\.0\.1 client="intruder" operation=Authenticate '
                      rf'resource=- name="" port=\d+ listener="sasl_plaintext://{broker.sasl}" '
                      rf'mechanism=SCRAM-SHA-256 repeats=0 reason=".+"$')
        with broker.user() as client:
            for _ in range(5):
                equal(fetch_error(client, "private"), "TOPIC_AUTHORIZATION_FAILED")
            answer = client.ask("CreateAcls", 3, creations=[dict(
                resource_type=2, resource_name="private", resource_pattern_type=3, principal=f"User:{USER}",
                host="*", operation=3, permission_type=3)])
            equal(ERRORS[answer["results"][0]["error_code"]], "TOPIC_AUTHORIZATION_FAILED")
            client.send("Produce", 7, acks=0, timeout_ms=1000, topic_data=[dict(name="private", partition_data=[
                dict(index=0, records=batch([Record(b"x")]))])])
        who = rf'principal="User:{USER}" uid={pwd.getpwnam(USER).pw_uid} peer=127\.0\.0\.1 client="test"'
        for request, operation in ("Fetch", "Read"), ("CreateAcls", "Alter"), ("Produce", "Write"):
            broker.awaits(rf'^kqfs: audit: denied request={request} code=TOPIC_AUTHORIZATION_FAILED {who} '
                          rf'operation={operation} resource=Topic name="private" port=\d+ ')
        equal(len(re.findall("request=Fetch", broker.log())), 1, "the same again is no line")
        check("audit: allowed" not in broker.log(), broker.log())
    check("audit: left out: 4 repeats, 0 beyond" in broker.log(), broker.log())


def is_turned_away(client, name, version, **body):
    try:
        client.ask(name, version, **body)
    except Closed:
        return True
    return False


def test_requests_that_no_login_allows_are_lines():
    with AuditBroker("early", more=["--max_reauth_ms", "1000"]) as broker:
        where = rf'listener="sasl_plaintext://{broker.sasl}" mechanism=-'
        for _ in range(3):
            with Client(broker.sasl, client_id="early") as client:
                check(is_turned_away(client, "Metadata", 4, topics=None, allow_auto_topic_creation=False))
        with Client(broker.sasl, client_id="early") as client:
            client.ask("ApiVersions", 0)
            check(is_turned_away(client, "SaslAuthenticate", 1, auth_bytes=b""))
        for request in "Metadata", "SaslAuthenticate":
            broker.awaits(rf'^kqfs: audit: denied request={request} code=ILLEGAL_SASL_STATE principal="User:ANONYMOUS" '
                          rf'uid=-1 peer=127\.0\.0\.1 client="early" operation=- resource=- name="" port=\d+ {where} '
                          rf'repeats=0 reason="not before the login"$')
        equal(len(re.findall("request=Metadata", broker.log())), 1, "the same again is no line")
        with broker.user() as client:
            until(lambda: is_turned_away(client, "ApiVersions", 0), "the end of the session")
            broker.awaits(rf'^kqfs: audit: denied request=ApiVersions code=ILLEGAL_SASL_STATE principal="User:{USER}" '
                          rf'uid={pwd.getpwnam(USER).pw_uid} .* {where} repeats=0 reason="the session has ended"$')
    check("audit: left out: 2 repeats, 0 beyond" in broker.log(), broker.log())


def test_all_has_what_is_allowed_and_none_has_nothing():
    with AuditBroker("all", log="all") as broker:
        with UnixClient(broker.unix) as root:
            create(root, "t")
            equal(fetch_error(root, "t"), "NONE")
            root.ask("Heartbeat", 3, group_id="g", generation_id=1, member_id="m")
            me = rf'code=\w+ principal="User:root" uid=0 peer=unix client="test"'
            broker.awaits(rf'audit: allowed request=CreateTopics {me} operation=Create resource=Topic name="t" '
                          rf'port={os.getpid()} listener="unix://')
            broker.awaits(rf'audit: allowed request=Fetch {me} operation=Read resource=Topic name="t" ')
            broker.awaits(rf'audit: allowed request=Heartbeat {me} operation=Read resource=Group name="g" ')
        with broker.user():
            broker.awaits(rf'audit: allowed request=SaslAuthenticate code=NONE principal="User:{USER}" '
                          rf'.*mechanism=SCRAM-SHA-256 ')
    with AuditBroker("none", log="none") as broker:
        with Client(broker.plain) as root:
            create(root, "private")
        with broker.user() as client:
            equal(fetch_error(client, "private"), "TOPIC_AUTHORIZATION_FAILED")
    check("audit:" not in broker.log(), broker.log())


def make_certificate(directory, name, issuer):
    """Signed by the key of ISSUER, a CA that is made with it where that is its own name."""
    at = f"{directory}/{name}"
    key = f"-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {at}.key -subj /CN={name}"
    if name == issuer:
        sh(f"openssl req -x509 {key} -days 2 -out {at}.pem")
        return
    sh(f"openssl req {key} -out {at}.csr; openssl x509 -req -in {at}.csr -CA {directory}/{issuer}.pem "
       f"-CAkey {directory}/{issuer}.key -CAcreateserial -days 2 -out {at}.pem")


def greet(address, directory, certificate):
    """Whether a client with CERTIFICATE is served."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(f"{directory}/{certificate}.pem", f"{directory}/{certificate}.key")
    host, port = address.split(":")
    try:
        with context.wrap_socket(socket.create_connection((host, int(port)), 60)) as connection:
            connection.sendall(bytes.fromhex("0000000a 0012 0000 00000001 ffff"))  # ApiVersions
            return len(connection.recv(4)) == 4
    except OSError:
        return False


def test_certificates_that_are_refused_are_lines():
    directory = os.path.join(test_directory(), "certificates")
    os.makedirs(directory)
    for name, issuer in ("ca", "ca"), ("other", "other"), ("server", "ca"), ("app1", "ca"), ("stranger", "other"):
        make_certificate(directory, name, issuer)
    tls = (f",certificate={directory}/server.pem,key={directory}/server.key,ca={directory}/ca.pem,"
           "client_authentication=required")
    with AuditBroker("tls", log="all", tls=tls) as broker:
        check(greet(broker.tls, directory, "app1"), broker.log())
        check(not greet(broker.tls, directory, "stranger"), "a stranger")
        line = (r'peer=127\.0\.0\.1 client="" operation=Authenticate resource=- name="" port=\d+ '
                rf'listener="ssl://{broker.tls}" mechanism=certificate repeats=0 reason=')
        broker.awaits(rf'audit: allowed request=TLS code=NONE principal="User:CN=app1" uid=-1 {line}""$')
        broker.awaits(rf'audit: denied request=TLS code=SSL_AUTHENTICATION_FAILED principal="" uid=-1 {line}'
                      r'"unable to get local issuer certificate"$')


def test_a_change_of_groups_counts_on_an_open_connection():
    with AuditBroker("groups", refresh=1000) as broker, Client(broker.plain) as root:
        create(root, "ours")
        with broker.user() as client, broker.user() as other:
            equal(fetch_error(client, "ours"), "TOPIC_AUTHORIZATION_FAILED")
            broker.set_members("root", USER)
            until(lambda: fetch_error(client, "ours") == "NONE", "the group to count", 60)
            until(lambda: fetch_error(other, "ours") == "NONE", "the group to count elsewhere", 60)
            waiting = other.send("Fetch", 11, max_wait_ms=10000, min_bytes=1, max_bytes=1 << 20, session_epoch=-1,
                                 topics=[dict(topic="ours", partitions=[
                                     dict(partition=0, fetch_offset=0, partition_max_bytes=1000)])])
            broker.set_members("root")
            until(lambda: fetch_error(client, "ours") == "TOPIC_AUTHORIZATION_FAILED", "it to be gone", 60)
            equal(produce(root, "ours", batch([Record(b"secret")]))["error_code"], 0)
            equal(fetch_error(other, "ours", sent=waiting), "TOPIC_AUTHORIZATION_FAILED", "who waited")


if __name__ == "__main__":
    main()
