/* Messages become bytes of a file: text (text.h) or JSON lines, from where a cursor stands.
 *
 * Text may stop and go on in the middle of a message; what lies before the requested end is never
 * left out. */
#pragma once

#include "fs/cursor.h"

/* Buffers that kq_render_text fills need so many bytes behind ROOM: short values are copied in
 * blocks. */
#define KQ_RENDER_SLACK 64

/* Text from the cursor's place, up to ROOM bytes at OUT. RET_LENGTH is set whatever comes back.
 * 0: ROOM is full; KQ_END: nothing behind them (yet); else as kq_cursor_enter: the place is then
 * undefined, except that after -EBADMSG and KQ_GONE it is behind the RET_LENGTH bytes. */
int kq_render_text(struct kq_cursor *cursor, struct kq_lens *lens, uint8_t *out, size_t room,
                   size_t *ret_length);

/* Appends JSON lines of whole messages to OUT until it holds at least UNTIL bytes. As
 * kq_render_text; -ENOMEM. */
int kq_render_jsonl(struct kq_cursor *cursor, struct kq_lens *lens, struct kq_buf *out,
                    size_t until);
