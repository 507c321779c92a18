/* Messages as JSON lines, one object a line:
 *
 *   {"offset":42,"timestamp":1700000000000,"key":"k","headers":[{"name":"n","value":"v"}],"value":"v"}
 *
 * Bytes that are not UTF-8 stand in base64 (RFC 4648, padded) under key_base64, value_base64, and
 * name_base64 within a header. A null key, value or header value is null. Headers keep their order
 * and may repeat, hence a list; `jq '.headers | from_entries'` makes it an object.
 *
 * A line that is read needs a value (null for none); all else may be missing. Its offset is
 * ignored, so that what was read from one topic can be written to another. Unknown and repeated
 * members, and both forms of one member, are refused. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/buf.h"
#include "broker/batch.h"

/* Appends RECORD's line, newline included, to OUT. 0; -ENOMEM; -EBADMSG (its headers are
 * malformed). After an error OUT holds what it held. */
int kq_jsonl_format(const struct kq_record *record, struct kq_buf *out);

/* Reads one line (with or without its newline). RET's pointers go into SCRATCH, which is emptied
 * first; its offset is 0 and its timestamp DEFAULT_TIMESTAMP where the line has none.
 * 0; -EINVAL (not such a line); -ENOMEM. */
int kq_jsonl_parse(const void *line, size_t length, int64_t default_timestamp,
                   struct kq_buf *scratch, struct kq_record *ret);
