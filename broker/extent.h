/* A reference to bytes of the log: what a read returns instead of a copy.
 *
 * While it is held the bytes stay readable at fd/position and never change, even when retention
 * unlinks the segment. Any thread may hold, copy (with kq_extent_ref) and release one. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct kq_batch_header;
struct kq_file;

struct kq_extent {
    int fd;                /* borrowed from the owner: never close it */
    uint32_t length;       /* bytes; whole batches, except that a read with a maximum may cut
                              the last one (never the first) */
    int64_t position;      /* in the file, of a batch's first byte */
    int64_t base_offset;   /* of the first batch */
    int64_t next_offset;   /* behind the last batch; -1 where a maximum cut the extent */
    int64_t cut_offsets;   /* where one did: about how many offsets it holds, by its bytes */
    int64_t text;          /* text position of the first batch's text, -1 where not asked */
    bool holes;            /* there may be holes in the text between its messages */
    struct kq_file *owner; /* NULL: an empty extent, nothing to release */
};

/* Adds a reference: a copied struct is then released on its own. */
void kq_extent_ref(const struct kq_extent *extent);

/* Releases it and makes it empty; an empty one is fine. */
void kq_extent_unref(struct kq_extent *extent);

/* Is the batch of SIZE bytes at POSITION (in the file, inside EXTENT) known to be good? It is if
 * this process wrote it, if recovery checked it, or if a reader did lately; then its checksum need
 * not be computed. Whether the disk still gives the bytes that were good is not asked again. A few
 * atomic loads. EXTENT is not empty. */
bool kq_extent_is_verified(const struct kq_extent *extent, int64_t position, uint32_t size);

/* The same batch: its reader computed CRC over what follows byte KQ_BATCH_CRC_FROM of it. Remembers
 * it if that is right. 0; -EBADMSG: the batch is damaged, and nothing of it may be believed. */
int kq_extent_verify(const struct kq_extent *extent, int64_t position,
                     const struct kq_batch_header *header, uint32_t crc);

/* EXTENT is damaged at POSITION: where is the next batch whose checksum is right? That, or the end
 * of EXTENT. Reads on from there, and may block. 0; -EIO, -ENOMEM. */
int kq_extent_resync(const struct kq_extent *extent, int64_t position, int64_t *ret);
