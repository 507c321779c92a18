/* The four compression codecs of record batches, decompression and compression. Any thread.
 *
 * gzip: RFC 1952. snappy: xerial's framing as Java clients write it, or a bare block. lz4: the LZ4
 * frame format, tolerant of the header checksum that old clients computed wrongly. zstd: RFC 8878.
 */
#pragma once

#include "broker/base/buf.h"
#include "broker/batch.h"

/* Appends the decompressed bytes to OUT. 0; -EBADMSG (not such data); -EFBIG (more than LIMIT bytes
 * would come out: OUT never grows beyond that, whatever the data claim); -ENOMEM; -EINVAL (unknown
 * codec, KQ_CODEC_NONE included). After an error OUT holds what it held. */
int kq_codec_decompress(enum kq_codec codec, const void *bytes, size_t length, size_t limit,
                        struct kq_buf *out);

/* The same piece by piece, so that memory is bounded by what DRAIN keeps, not by what comes out:
 * WINDOW is emptied first, and whenever KQ_CODEC_PIECE bytes or more have been added, and at the
 * end, DRAIN is called to take bytes off its front (kq_buf_drop_front); what it leaves it is given
 * again with more behind it. What DRAIN returns other than 0 ends it and is returned. Besides as
 * kq_codec_decompress; -EFBIG: more than LIMIT bytes would come out in all. */
#define KQ_CODEC_PIECE (64 * 1024)
typedef int kq_codec_drain(void *context, struct kq_buf *window);
int kq_codec_stream(enum kq_codec codec, const void *bytes, size_t length, size_t limit,
                    struct kq_buf *window, kq_codec_drain *drain, void *context);

/* Appends the compressed bytes to OUT, as Java's client would write them. LEVEL 0: the codec's
 * default. 0; -ENOMEM; -EINVAL. */
int kq_codec_compress(enum kq_codec codec, int level, const void *bytes, size_t length,
                      struct kq_buf *out);
