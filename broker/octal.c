#include "broker/octal.h"

static bool is_octal(char c, char most)
{
    return c >= '0' && c <= most;
}

/* The byte that the escape at TEXT stands for; 0: there is none. */
static char escaped(const char *text)
{
    if (text[0] != '\\' || !is_octal(text[1], '3') || !is_octal(text[2], '7') ||
        !is_octal(text[3], '7'))
        return 0;
    return (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
}

void kq_octal_decode(char *text, enum kq_octal_style style)
{
    char *to = text;
    while (*text) {
        char byte = escaped(text);
        if (byte) {
            *to++ = byte;
            text += 4;
            continue;
        }
        if (style == KQ_OCTAL_OPTION && text[0] == '\\' && text[1])
            text++;
        *to++ = *text++;
    }
    *to = '\0';
}

/* Would an INI file lose TEXT[AT], or what follows it? */
static bool is_lost(const char *text, size_t at)
{
    unsigned char c = (unsigned char)text[at], next = (unsigned char)text[at + 1];
    return c < ' ' || c == 0x7f || (c == ' ' && (at == 0 || !next || next == ';'));
}

int kq_octal_append(struct kq_buf *ret, const char *text, enum kq_octal_style style)
{
    int r = 0;
    for (size_t at = 0; r == 0 && text[at]; at++) {
        /* The octal escape takes the place of a pair, whose backslash would escape its own. */
        bool pair = style == KQ_OCTAL_OPTION && text[at] == '\\' && text[at + 1];
        size_t start = at;
        at += pair;
        if (is_lost(text, at) || (style == KQ_OCTAL_PATH && text[at] == '\\'))
            r = kq_buf_printf(ret, "\\%03o", (unsigned char)text[at]);
        else
            r = kq_buf_append(ret, text + start, at - start + 1);
    }
    return r;
}
