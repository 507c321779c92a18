/* The kernel knows the owner of each socket. Two ends of a connection over the loopback interface
 * are two sockets of one kernel, so the end that is ours names the other one exactly. */
#include "net/peer.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/base/err.h"
#include "net/address.h"

struct question {
    struct nlmsghdr head;
    struct inet_diag_req_v2 body;
};

/* An IPv4 address in an IPv6 one is that IPv4 address; in network order at RET. */
static sa_family_t plain(const struct sockaddr_storage *address, __be32 ret[4], __be16 *ret_port)
{
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    memset(ret, 0, 16);
    if (address->ss_family == AF_INET) {
        ret[0] = v4->sin_addr.s_addr;
        *ret_port = v4->sin_port;
        return AF_INET;
    }
    *ret_port = v6->sin6_port;
    if (!IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
        memcpy(ret, &v6->sin6_addr, 16);
        return AF_INET6;
    }
    memcpy(ret, &v6->sin6_addr.s6_addr[12], 4);
    return AF_INET;
}

/* A socket that its process has closed already belongs to nobody, which the kernel reports as uid
 * 0; one that only begins to connect is not the one that did. */
static bool has_owner(const struct inet_diag_msg *peer)
{
    return peer->idiag_inode != 0 &&
           (peer->idiag_state == TCP_ESTABLISHED || peer->idiag_state == TCP_FIN_WAIT1 ||
            peer->idiag_state == TCP_FIN_WAIT2);
}

/* 0; -EAGAIN: the answer to an earlier question; -errno. */
static int take_answer(const struct nlmsghdr *head, size_t length, uint32_t serial, uid_t *ret)
{
    if (!NLMSG_OK(head, length))
        return -EPROTO;
    if (head->nlmsg_seq != serial)
        return -EAGAIN;
    if (head->nlmsg_type == NLMSG_ERROR)
        return ((struct nlmsgerr *)NLMSG_DATA(head))->error;
    if (head->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
        head->nlmsg_len < NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
        return -EPROTO;
    const struct inet_diag_msg *peer = NLMSG_DATA(head);
    if (!has_owner(peer))
        return -ENOENT;
    *ret = peer->idiag_uid;
    return 0;
}

static int send_question(int netlink, const struct question *question, uid_t *ret)
{
    union {
        struct nlmsghdr head;
        uint8_t bytes[4096];
    } answer;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(netlink, question, sizeof(*question), MSG_DONTWAIT, (struct sockaddr *)&kernel,
               sizeof(kernel)) < 0)
        return -errno;
    int r;
    do {
        /* The kernel answers before sendto returns. */
        ssize_t n = recv(netlink, &answer, sizeof(answer), MSG_DONTWAIT);
        if (n < 0)
            return errno == EAGAIN ? -ENOENT : -errno;
        r = take_answer(&answer.head, (size_t)n, question->head.nlmsg_seq, ret);
    } while (r == -EAGAIN);
    return r;
}

int kq_peer_open(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    return fd < 0 ? -errno : fd;
}

int kq_peer_uid(int ask, uint32_t serial, int fd, uid_t *ret)
{
    struct sockaddr_storage local, peer;
    socklen_t local_length = sizeof(local), peer_length = sizeof(peer);
    struct question question = {
        .head = {.nlmsg_len = sizeof(question),
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST,
                 .nlmsg_seq = serial},
        .body = {.sdiag_protocol = IPPROTO_TCP,
                 .idiag_states = UINT32_MAX,
                 .id.idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}},
    };
    if (getsockname(fd, (struct sockaddr *)&local, &local_length) < 0 ||
        getpeername(fd, (struct sockaddr *)&peer, &peer_length) < 0)
        return -ENOENT;
    /* A host cannot have a connection with itself under an address that is not its own. */
    if (!kq_address_is_loopback(&peer) && !kq_address_same_host(&local, &peer))
        return -ENOENT;
    struct inet_diag_sockid *id = &question.body.id;
    question.body.sdiag_family = (uint8_t)plain(&peer, id->idiag_src, &id->idiag_sport);
    plain(&local, id->idiag_dst, &id->idiag_dport);
    return send_question(ask, &question, ret);
}
