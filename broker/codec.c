#include "broker/codec.h"

#include <limits.h>
#include <lz4frame.h>
#include <pthread.h>
#include <snappy-c.h>
#include <stdbool.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "broker/base/endian.h"
#include "broker/base/mem.h"

#define FIRST_GUESS 16384 /* bytes of output to begin with, where nothing says how many */

/* --- Output that grows up to a limit, and not beyond --- */

struct sink {
    struct kq_buf *out;
    size_t left;           /* so many bytes may still come */
    kq_codec_drain *drain; /* NULL: OUT keeps them all */
    void *context;
    uint8_t spill[16]; /* what would come out beyond the limit shows here */
};

static void sink_open(struct sink *sink, struct kq_buf *out, size_t limit)
{
    size_t most = SIZE_MAX / 4 - out->length;
    *sink = (struct sink){.out = out, .left = limit < most ? limit : most};
}

/* Capacity for WANT more bytes at least, doubling, but never above the limit (unlike
 * kq_buf_reserve, which may double beyond it). */
static int sink_grow(struct sink *sink, size_t want)
{
    struct kq_buf *out = sink->out;
    if (want > sink->left)
        return -EFBIG;
    if (out->capacity - out->length >= want)
        return 0;
    size_t most = out->length + sink->left;
    size_t capacity = out->capacity > most / 2 ? most : 2 * out->capacity;
    if (capacity < out->length + want)
        capacity = out->length + want;
    uint8_t *data = kq_realloc(out->data, capacity);
    if (!data)
        return -ENOMEM;
    out->data = data;
    out->capacity = capacity;
    return 0;
}

/* Where a decompressor may write next: room behind OUT, the spill once the limit is reached. */
static int sink_room(struct sink *sink, uint8_t **ret_at, size_t *ret_size)
{
    struct kq_buf *out = sink->out;
    if (sink->left == 0) {
        *ret_at = sink->spill;
        *ret_size = sizeof(sink->spill);
        return 0;
    }
    if (out->capacity == out->length) {
        size_t guess = sink->drain ? KQ_CODEC_PIECE : FIRST_GUESS;
        int r = sink_grow(sink, sink->left < guess ? sink->left : guess);
        if (r < 0)
            return r;
    }
    size_t room = out->capacity - out->length;
    *ret_at = out->data + out->length;
    *ret_size = room < sink->left ? room : sink->left;
    return 0;
}

static int sink_took(struct sink *sink, size_t count)
{
    if (count > sink->left)
        return -EFBIG;
    sink->left -= count;
    sink->out->length += count;
    return sink->drain && sink->out->length >= KQ_CODEC_PIECE
               ? sink->drain(sink->context, sink->out)
               : 0;
}

/* --- gzip --- */

static voidpf gzip_alloc(voidpf context, uInt items, uInt size)
{
    return kq_alloc((size_t)items * size);
}

static void gzip_free(voidpf context, voidpf memory)
{
    free(memory);
}

static int gunzip_stream(z_stream *stream, struct sink *sink)
{
    for (;;) {
        uint8_t *at;
        size_t room;
        int r = sink_room(sink, &at, &room);
        if (r < 0)
            return r;
        stream->next_out = at;
        stream->avail_out = room > UINT_MAX ? UINT_MAX : (uInt)room;
        uInt before = stream->avail_out;
        int z = inflate(stream, Z_NO_FLUSH);
        r = sink_took(sink, before - stream->avail_out);
        if (r != 0)
            return r;
        if (z == Z_MEM_ERROR)
            return -ENOMEM;
        if (z == Z_STREAM_END && stream->avail_in == 0)
            return 0;
        if (z == Z_STREAM_END) /* another member follows */
            z = inflateReset(stream);
        if (z != Z_OK)
            return -EBADMSG;
    }
}

static int gunzip(const void *bytes, size_t length, struct sink *sink)
{
    z_stream stream = {.next_in = (z_const Bytef *)bytes,
                       .avail_in = (uInt)length,
                       .zalloc = gzip_alloc,
                       .zfree = gzip_free};
    if (inflateInit2(&stream, MAX_WBITS + 16) != Z_OK)
        return -ENOMEM;
    int r = gunzip_stream(&stream, sink);
    inflateEnd(&stream);
    return r;
}

static int gzip(int level, const void *bytes, size_t length, struct kq_buf *out)
{
    z_stream stream = {.next_in = (z_const Bytef *)bytes,
                       .avail_in = (uInt)length,
                       .zalloc = gzip_alloc,
                       .zfree = gzip_free};
    if (level < -1 || level > 9)
        return -EINVAL;
    if (deflateInit2(&stream, level ? level : Z_DEFAULT_COMPRESSION, Z_DEFLATED, MAX_WBITS + 16, 8,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    size_t bound = deflateBound(&stream, length);
    int r = bound > UINT_MAX ? -EINVAL : kq_buf_reserve(out, bound);
    if (r == 0) {
        stream.next_out = out->data + out->length;
        stream.avail_out = (uInt)bound;
        r = deflate(&stream, Z_FINISH) == Z_STREAM_END ? 0 : -ENOMEM;
    }
    if (r == 0)
        out->length += stream.total_out;
    deflateEnd(&stream);
    return r;
}

/* --- snappy --- */

/* Xerial's stream: this, then blocks, each behind its length (i32). */
static const uint8_t xerial[16] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1};
#define XERIAL_MAGIC 8 /* bytes; two version numbers follow, which no reader looks at */
#define XERIAL_BLOCK 32768
#define SNAPPY_RATIO 64 /* one byte never gives more */

static int unsnappy_block(const uint8_t *at, size_t length, struct sink *sink)
{
    size_t size;
    if (snappy_uncompressed_length((const char *)at, length, &size) != SNAPPY_OK ||
        size / SNAPPY_RATIO > length)
        return -EBADMSG;
    if (size == 0)
        return snappy_validate_compressed_buffer((const char *)at, length) == SNAPPY_OK ? 0
                                                                                        : -EBADMSG;
    int r = sink_grow(sink, size);
    if (r < 0)
        return r;
    if (snappy_uncompress((const char *)at, length, (char *)sink->out->data + sink->out->length,
                          &size) != SNAPPY_OK)
        return -EBADMSG;
    return sink_took(sink, size);
}

static int unsnappy(const uint8_t *at, size_t length, struct sink *sink)
{
    if (length < sizeof(xerial) || memcmp(at, xerial, XERIAL_MAGIC) != 0)
        return unsnappy_block(at, length, sink);
    const uint8_t *end = at + length;
    at += sizeof(xerial);
    while (at < end) {
        if (end - at < 4)
            return -EBADMSG;
        uint32_t size = kq_load_be32(at);
        at += 4;
        if (size > (size_t)(end - at))
            return -EBADMSG;
        int r = unsnappy_block(at, size, sink);
        if (r != 0)
            return r;
        at += size;
    }
    return 0;
}

static int snappy(const uint8_t *at, size_t length, struct kq_buf *out)
{
    size_t blocks = length / XERIAL_BLOCK + 1;
    int r = kq_buf_reserve(out, sizeof(xerial) +
                                    blocks * (4 + snappy_max_compressed_length(XERIAL_BLOCK)));
    if (r < 0)
        return r;
    uint8_t *to = mempcpy(out->data + out->length, xerial, sizeof(xerial));
    while (length > 0) {
        size_t piece = length < XERIAL_BLOCK ? length : XERIAL_BLOCK;
        size_t size = snappy_max_compressed_length(piece);
        if (snappy_compress((const char *)at, piece, (char *)to + 4, &size) != SNAPPY_OK)
            return -EINVAL;
        kq_store_be32(to, (uint32_t)size);
        to += 4 + size;
        at += piece;
        length -= piece;
    }
    out->length = (size_t)(to - out->data);
    return 0;
}

/* --- lz4 --- */

#define LZ4_HEADER_LEAST 7

/* Reads a frame's header. Kafka's clients before 0.10 summed the magic number too (KAFKA-3160), and
 * others still do; the library cannot be told to look away, so the right sum is found by trying. */
static int lz4_header(LZ4F_dctx *context, const uint8_t *at, size_t length, size_t *ret_size)
{
    uint8_t header[LZ4F_HEADER_SIZE_MAX];
    LZ4F_frameInfo_t info;
    size_t have = length < sizeof(header) ? length : sizeof(header), size = have;
    if (have < LZ4_HEADER_LEAST)
        return -EBADMSG;
    memcpy(header, at, have);
    size_t sum_at = LZ4_HEADER_LEAST - 1 + (header[4] & 0x08 ? 8 : 0) + (header[4] & 0x01 ? 4 : 0);
    size_t r = LZ4F_getFrameInfo(context, &info, header, &size);
    for (unsigned sum = 0; LZ4F_isError(r) && sum <= UINT8_MAX && sum_at < have; sum++) {
        LZ4F_resetDecompressionContext(context);
        header[sum_at] = (uint8_t)sum;
        size = have;
        r = LZ4F_getFrameInfo(context, &info, header, &size);
    }
    if (LZ4F_isError(r))
        return -EBADMSG;
    *ret_size = size;
    return 0;
}

static int unlz4_frame(LZ4F_dctx *context, const uint8_t **at, const uint8_t *end,
                       struct sink *sink)
{
    size_t hint = 1, taken;
    int r = lz4_header(context, *at, (size_t)(end - *at), &taken);
    if (r < 0)
        return r;
    *at += taken;
    while (hint != 0) {
        uint8_t *to;
        size_t given, before;
        taken = (size_t)(end - *at);
        r = sink_room(sink, &to, &given);
        if (r < 0)
            return r;
        before = taken;
        hint = LZ4F_decompress(context, to, &given, *at, &taken, NULL);
        if (LZ4F_isError(hint) || (hint != 0 && before == 0 && given == 0))
            return -EBADMSG;
        *at += taken;
        r = sink_took(sink, given);
        if (r != 0)
            return r;
    }
    return 0;
}

static int unlz4(const uint8_t *at, size_t length, struct sink *sink)
{
    const uint8_t *end = at + length;
    LZ4F_dctx *context;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&context, LZ4F_VERSION)))
        return -ENOMEM;
    int r;
    do
        r = unlz4_frame(context, &at, end, sink);
    while (r == 0 && at < end);
    LZ4F_freeDecompressionContext(context);
    return r;
}

static int lz4(int level, const void *bytes, size_t length, struct kq_buf *out)
{
    LZ4F_preferences_t preferences = {
        .frameInfo = {.blockSizeID = LZ4F_max64KB, .blockMode = LZ4F_blockIndependent},
        .compressionLevel = level,
    };
    size_t bound = LZ4F_compressFrameBound(length, &preferences);
    int r = kq_buf_reserve(out, bound);
    if (r < 0)
        return r;
    size_t size = LZ4F_compressFrame(out->data + out->length, bound, bytes, length, &preferences);
    if (LZ4F_isError(size))
        return -ENOMEM;
    out->length += size;
    return 0;
}

/* --- zstd --- */

#define ZSTD_KEEP (1024 * 1024) /* bytes of a context that a thread keeps */

static pthread_key_t zstd_key;
static bool zstd_keeps;

static void free_zstd(void *context)
{
    ZSTD_freeDCtx(context);
}

static void make_zstd_key(void)
{
    zstd_keeps = pthread_key_create(&zstd_key, free_zstd) == 0;
}

/* This thread's context: making one costs more than most batches. NULL: no memory. */
static ZSTD_DCtx *take_zstd(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_zstd_key);
    ZSTD_DCtx *context = zstd_keeps ? pthread_getspecific(zstd_key) : NULL;
    if (context)
        pthread_setspecific(zstd_key, NULL);
    return context ? context : ZSTD_createDCtx();
}

static void give_zstd_back(ZSTD_DCtx *context)
{
    ZSTD_DCtx_reset(context, ZSTD_reset_session_only);
    if (!zstd_keeps || ZSTD_sizeof_DCtx(context) > ZSTD_KEEP ||
        pthread_setspecific(zstd_key, context) != 0)
        ZSTD_freeDCtx(context);
}

/* In one piece, again with more room where it was too little: the output is the window. */
static int unzstd_whole(ZSTD_DCtx *context, const void *bytes, size_t length,
                        unsigned long long size, struct sink *sink)
{
    struct kq_buf *out = sink->out;
    size_t most = sink->left;
    size_t want = size == ZSTD_CONTENTSIZE_UNKNOWN ? FIRST_GUESS
                  : size < most                    ? (size_t)size
                                                   : most;
    for (want = want ? want : 1;; want = (out->capacity - out->length) * 2) {
        int r = sink_grow(sink, want < most ? want : most);
        if (r < 0)
            return r;
        size_t room = out->capacity - out->length;
        room = room < most ? room : most;
        uint8_t *to = room ? out->data + out->length : sink->spill;
        size_t got = ZSTD_decompressDCtx(context, to, room, bytes, length);
        if (!ZSTD_isError(got))
            return sink_took(sink, got);
        if (ZSTD_getErrorCode(got) == ZSTD_error_memory_allocation)
            return -ENOMEM;
        if (ZSTD_getErrorCode(got) != ZSTD_error_dstSize_tooSmall)
            return -EBADMSG;
        if (room == most)
            return -EFBIG;
    }
}

/* The window is the library's then, as large as the frame asks for, within bounds. */
static int unzstd_pieces(ZSTD_DCtx *stream, const void *bytes, size_t length, struct sink *sink)
{
    ZSTD_inBuffer in = {.src = bytes, .size = length};
    size_t hint = 1;
    while (hint != 0 || in.pos < in.size) {
        uint8_t *at;
        size_t room;
        int r = sink_room(sink, &at, &room);
        if (r < 0)
            return r;
        ZSTD_outBuffer out = {.dst = at, .size = room};
        size_t before = in.pos;
        hint = ZSTD_decompressStream(stream, &out, &in);
        if (ZSTD_isError(hint))
            return ZSTD_getErrorCode(hint) == ZSTD_error_memory_allocation ? -ENOMEM : -EBADMSG;
        if (out.pos == 0 && in.pos == before)
            return -EBADMSG;
        r = sink_took(sink, out.pos);
        if (r != 0)
            return r;
    }
    return 0;
}

enum {
    FRAME_CHECKSUM = 1 << 2, /* bits of the byte behind the magic number */
    FRAME_SINGLE_SEGMENT = 1 << 5,
    BLOCK_RLE = 1,
    BLOCK_COMPRESSED = 2,
};

/* Bytes before the first block of the frame at AT, which has 5 at least. */
static size_t zstd_header_size(const uint8_t *at)
{
    static const uint8_t id_bytes[] = {0, 1, 2, 4}, size_bytes[] = {0, 2, 4, 8};
    bool single = at[4] & FRAME_SINGLE_SEGMENT;
    size_t size = size_bytes[at[4] >> 6];
    return 5 + !single + id_bytes[at[4] & 3] + (size ? size : single);
}

/* Has a frame a compressed block without a byte? In pieces the library takes that for the frame's
 * end, in one piece for damage, and so do clients. */
static bool has_empty_block(const uint8_t *at, size_t length)
{
    const uint8_t *end = at + length;
    while (end - at > 5 && kq_load_le32(at) == ZSTD_MAGICNUMBER) {
        bool checksum = at[4] & FRAME_CHECKSUM, last = false;
        size_t size = zstd_header_size(at);
        while (!last && (size_t)(end - at) >= size + 3) {
            at += size;
            uint32_t block = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16;
            uint32_t type = block >> 1 & 3;
            last = block & 1;
            size = 3 + (type == BLOCK_RLE ? 1 : block >> 3);
            if (type == BLOCK_COMPRESSED && size == 3)
                return true;
        }
        size += checksum ? 4 : 0;
        if (!last || size > (size_t)(end - at))
            return false; /* cut off: the library will say so */
        at += size;
    }
    return false;
}

static int unzstd(const void *bytes, size_t length, struct sink *sink)
{
    unsigned long long size = ZSTD_getFrameContentSize(bytes, length);
    if (size == ZSTD_CONTENTSIZE_ERROR)
        return -EBADMSG;
    bool alone = ZSTD_findFrameCompressedSize(bytes, length) == length;
    bool whole = !sink->drain || (alone && size <= KQ_CODEC_PIECE);
    if (!whole && has_empty_block(bytes, length))
        return -EBADMSG;
    ZSTD_DCtx *context = take_zstd();
    if (!context)
        return -ENOMEM;
    int r = whole ? unzstd_whole(context, bytes, length, size, sink)
                  : unzstd_pieces(context, bytes, length, sink);
    give_zstd_back(context);
    return r;
}

static int zstd(int level, const void *bytes, size_t length, struct kq_buf *out)
{
    size_t bound = ZSTD_compressBound(length);
    int r = kq_buf_reserve(out, bound);
    if (r < 0)
        return r;
    size_t size = ZSTD_compress(out->data + out->length, bound, bytes, length,
                                level ? level : ZSTD_CLEVEL_DEFAULT);
    if (ZSTD_isError(size))
        return -ENOMEM;
    out->length += size;
    return 0;
}

/* --- All --- */

static int decompress(enum kq_codec codec, const void *bytes, size_t length, struct sink *sink)
{
    if (codec < KQ_CODEC_GZIP || codec > KQ_CODEC_ZSTD)
        return -EINVAL;
    if (length == 0 || length > INT32_MAX)
        return -EBADMSG;
    if (codec == KQ_CODEC_GZIP)
        return gunzip(bytes, length, sink);
    if (codec == KQ_CODEC_SNAPPY)
        return unsnappy(bytes, length, sink);
    if (codec == KQ_CODEC_LZ4)
        return unlz4(bytes, length, sink);
    return unzstd(bytes, length, sink);
}

int kq_codec_decompress(enum kq_codec codec, const void *bytes, size_t length, size_t limit,
                        struct kq_buf *out)
{
    struct sink sink;
    size_t before = out->length;
    sink_open(&sink, out, limit);
    int r = decompress(codec, bytes, length, &sink);
    if (r < 0)
        out->length = before;
    return r;
}

int kq_codec_stream(enum kq_codec codec, const void *bytes, size_t length, size_t limit,
                    struct kq_buf *window, kq_codec_drain *drain, void *context)
{
    struct sink sink;
    window->length = 0;
    sink_open(&sink, window, limit);
    sink.drain = drain;
    sink.context = context;
    int r = decompress(codec, bytes, length, &sink);
    return r == 0 ? drain(context, window) : r;
}

int kq_codec_compress(enum kq_codec codec, int level, const void *bytes, size_t length,
                      struct kq_buf *out)
{
    if (length > INT32_MAX)
        return -EINVAL;
    if (codec == KQ_CODEC_GZIP)
        return gzip(level, bytes, length, out);
    if (codec == KQ_CODEC_SNAPPY)
        return snappy(bytes, length, out);
    if (codec == KQ_CODEC_LZ4)
        return lz4(level, bytes, length, out);
    if (codec == KQ_CODEC_ZSTD)
        return zstd(level, bytes, length, out);
    return -EINVAL;
}
