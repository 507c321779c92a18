/* Bytes written as a backslash and three octal digits, \040 for a blank, so that a line of the
 * configuration file can hold them: as fstab(5) does for paths and libfuse for its options. A byte
 * is \001 to \377; there is no way to write NUL. */
#pragma once

#include <stdbool.h>

#include "broker/base/buf.h"

/* What a backslash means that no three such digits follow. */
enum kq_octal_style {
    KQ_OCTAL_PATH,   /* itself */
    KQ_OCTAL_OPTION, /* the next character, whatever that is, as itself */
};

/* Replaces in place what is written so by the bytes meant. Any TEXT is taken. */
void kq_octal_decode(char *text, enum kq_octal_style style);

/* Appends TEXT to RET so that it keeps its meaning as a value in an INI file, where blanks at its
 * ends, control characters and what follows ` ;` would be lost. TEXT is a path as it is, or
 * options as they were written, escapes included. -ENOMEM. */
int kq_octal_append(struct kq_buf *ret, const char *text, enum kq_octal_style style);
