#include "net/tlsmetrics.h"

#include "broker/metrics.h"

/* By the number that it has in TLS; see auth/tls.c. */
static const struct {
    uint16_t number;
    const char *name;
} ciphers[KQ_TLS_CIPHERS + 1] = {
    {0x1301, "TLS_AES_128_GCM_SHA256"},       {0x1302, "TLS_AES_256_GCM_SHA384"},
    {0x1303, "TLS_CHACHA20_POLY1305_SHA256"}, {0xc02b, "ECDHE-ECDSA-AES128-GCM-SHA256"},
    {0xc02f, "ECDHE-RSA-AES128-GCM-SHA256"},  {0xc02c, "ECDHE-ECDSA-AES256-GCM-SHA384"},
    {0xc030, "ECDHE-RSA-AES256-GCM-SHA384"},  {0xcca9, "ECDHE-ECDSA-CHACHA20-POLY1305"},
    {0xcca8, "ECDHE-RSA-CHACHA20-POLY1305"},  {0, "other"},
};

void kq_tls_count_open(struct kq_tls_counts *counts, SSL *ssl, bool is_kernel, int change)
{
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    uint16_t number = cipher ? SSL_CIPHER_get_protocol_id(cipher) : 0;
    size_t i = 0;
    while (i < KQ_TLS_CIPHERS && ciphers[i].number != number)
        i++;
    atomic_fetch_add_explicit(&counts->open[i][SSL_version(ssl) >= TLS1_3_VERSION][is_kernel],
                              change, memory_order_relaxed);
}

static const struct {
    enum kq_tls_count count;
    const char *name, *label, *help; /* HELP of the first one of a name */
} shown[] = {
    {KQ_TLS_FULL, "kqfs_tls_handshakes_total", "{result=\"full\"}",
     "Handshakes of TLS, by how they ended."},
    {KQ_TLS_RESUMED, "kqfs_tls_handshakes_total", "{result=\"resumed\"}", NULL},
    {KQ_TLS_FAILED, "kqfs_tls_handshakes_total", "{result=\"failed\"}", NULL},
    {KQ_TLS_BAD_CERTIFICATE, "kqfs_tls_handshakes_total", "{result=\"certificate\"}", NULL},
    {KQ_TLS_BROKEN_OFF, "kqfs_tls_handshakes_total", "{result=\"broken off\"}", NULL},
    {KQ_TLS_TIMED_OUT, "kqfs_tls_handshakes_total", "{result=\"timeout\"}", NULL},
    {KQ_TLS_TOO_MANY, "kqfs_tls_handshakes_total", "{result=\"tls.max.handshakes\"}", NULL},
    {KQ_TLS_NO_USER, "kqfs_tls_handshakes_total", "{result=\"user\"}", NULL},
    {KQ_TLS_SENDFILE_BYTES, "kqfs_tls_sendfile_bytes_total", "",
     "Bytes of record batches that the kernel encrypted straight from the page cache."},
    {KQ_TLS_COPIED_BYTES, "kqfs_tls_copied_bytes_total", "",
     "Bytes of record batches that were read into memory and encrypted there."},
    {KQ_TLS_REKEYED, "kqfs_tls_rekeyed_total", "",
     "Keys that were replaced on open connections after tls.max.records."},
    {KQ_TLS_ENDED_BY_REQUEST, "kqfs_tls_ended_for_key_total", "{reason=\"request\"}",
     "Connections that ended because the kernel cannot replace a key."},
    {KQ_TLS_ENDED_BY_RECORDS, "kqfs_tls_ended_for_key_total", "{reason=\"tls.max.records\"}", NULL},
    {KQ_TLS_RELOADED, "kqfs_tls_reloads_total", "{result=\"success\"}",
     "Times that changed certificate, key, CA or CRL files were read."},
    {KQ_TLS_NOT_RELOADED, "kqfs_tls_reloads_total", "{result=\"failure\"}", NULL},
};

static int format_open(struct kq_tls_counts *counts, struct kq_buf *ret)
{
    int r = kq_metrics_head(ret, "kqfs_tls_connections",
                            "Connections inside TLS that are open; ktls: the kernel encrypts.",
                            KQ_GAUGE);
    for (size_t i = 0; r == 0 && i < KQ_TLS_CIPHERS + 1; i++)
        for (int way = 0; r == 0 && way < 4; way++) {
            int count = atomic_load(&counts->open[i][way >> 1][way & 1]);
            if (count > 0)
                r = kq_buf_printf(
                    ret, "kqfs_tls_connections{version=\"%s\",cipher=\"%s\",ktls=\"%s\"} %d\n",
                    way >> 1 ? "TLSv1.3" : "TLSv1.2", ciphers[i].name, way & 1 ? "yes" : "no",
                    count);
        }
    return r;
}

int kq_tls_counts_format(struct kq_tls_counts *counts, struct kq_buf *ret)
{
    int r = 0;
    for (size_t i = 0; i < kq_array_size(shown) && r == 0; i++) {
        if (shown[i].help)
            r = kq_metrics_head(ret, shown[i].name, shown[i].help, KQ_COUNTER);
        if (r == 0)
            r = kq_buf_printf(ret, "%s%s %llu\n", shown[i].name, shown[i].label,
                              (unsigned long long)atomic_load(&counts->counts[shown[i].count]));
    }
    if (r == 0)
        r = kq_metrics_head(ret, "kqfs_tls_handshakes_under_way", "Handshakes that have not ended.",
                            KQ_GAUGE);
    if (r == 0)
        r = kq_buf_printf(ret, "kqfs_tls_handshakes_under_way %u\n",
                          atomic_load(&counts->under_way));
    return r ? r : format_open(counts, ret);
}
