/* hm_pattern.c -- checks and matches topics and patterns. */
#include "hm_pattern.h"

#include <assert.h>
#include <string.h>

/* The rest of a topic or pattern, taken token by token. */
typedef struct {
    const uint8_t *at; /* NULL: no token is left; `end`: an empty one is, as after "a." */
    const uint8_t *end;
} tokens;

typedef struct {
    const uint8_t *start;
    uint32_t len;
} token;

static tokens tokens_of(const uint8_t *name, uint32_t len) {
    return (tokens){name, name + len};
}

static int tokens_left(const tokens *rest) {
    return rest->at != NULL;
}

static token tokens_next(tokens *rest) {
    assert(tokens_left(rest));
    size_t left = (size_t)(rest->end - rest->at);
    const uint8_t *dot = left > 0 ? memchr(rest->at, '.', left) : NULL;
    const uint8_t *stop = dot != NULL ? dot : rest->end;
    token next = {rest->at, (uint32_t)(stop - rest->at)};
    rest->at = dot != NULL ? dot + 1 : NULL;
    return next;
}

static int is(token given, char single) {
    return given.len == 1 && given.start[0] == (uint8_t)single;
}

static int same(token a, token b) {
    return a.len == b.len && memcmp(a.start, b.start, a.len) == 0;
}

/* Length of the character at `at`, 0 if it isn't one: overlong forms, surrogates, NUL and what lies
 * beyond U+10FFFF are none. */
static size_t character(const uint8_t *at, const uint8_t *end) {
    static const struct {
        uint8_t first, last, size, low, high; /* first byte's range, length, second byte's range */
    } forms[] = {
        {0x01, 0x7F, 1, 0, 0},       {0xC2, 0xDF, 2, 0x80, 0xBF}, {0xE0, 0xE0, 3, 0xA0, 0xBF},
        {0xE1, 0xEC, 3, 0x80, 0xBF}, {0xED, 0xED, 3, 0x80, 0x9F}, {0xEE, 0xEF, 3, 0x80, 0xBF},
        {0xF0, 0xF0, 4, 0x90, 0xBF}, {0xF1, 0xF3, 4, 0x80, 0xBF}, {0xF4, 0xF4, 4, 0x80, 0x8F},
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (*at < forms[i].first || *at > forms[i].last)
            continue;
        size_t size = forms[i].size;
        if ((size_t)(end - at) < size ||
            (size > 1 && (at[1] < forms[i].low || at[1] > forms[i].high)))
            return 0;
        for (size_t k = 2; k < size; k++)
            if (at[k] < 0x80 || at[k] > 0xBF)
                return 0;
        return size;
    }
    return 0;
}

static int is_text(const uint8_t *name, uint32_t len) {
    const uint8_t *end = name + len;
    for (const uint8_t *at = name; at < end;) {
        size_t size = character(at, end);
        if (size == 0)
            return 0;
        at += size;
    }
    return 1;
}

static int check(const uint8_t *name, uint32_t len, int wildcards) {
    if (len == 0 || len > HM_TOPIC_MAX || !is_text(name, len))
        return -HM_ETOPIC;
    tokens rest = tokens_of(name, len);
    while (tokens_left(&rest)) {
        token next = tokens_next(&rest);
        if (next.len == 0 || (is(next, '*') && !wildcards) ||
            (is(next, '>') && (!wildcards || tokens_left(&rest))))
            return -HM_ETOPIC;
    }
    return 0;
}

int hm_topic_check(const uint8_t *name, uint32_t len) {
    assert(name != NULL || len == 0);
    return check(name, len, 0);
}

int hm_pattern_check(const uint8_t *pattern, uint32_t len) {
    assert(pattern != NULL || len == 0);
    return check(pattern, len, 1);
}

int hm_pattern_match(const uint8_t *pattern, uint32_t pattern_len, const uint8_t *name,
                     uint32_t len) {
    assert(pattern != NULL && pattern_len > 0);
    assert(name != NULL && len > 0);
    tokens wanted = tokens_of(pattern, pattern_len), given = tokens_of(name, len);
    while (tokens_left(&wanted) && tokens_left(&given)) {
        token want = tokens_next(&wanted);
        if (is(want, '>') && !tokens_left(&wanted))
            return 1;
        token have = tokens_next(&given);
        if (!is(want, '*') && !same(want, have))
            return 0;
    }
    return !tokens_left(&wanted) && !tokens_left(&given);
}

int hm_pattern_overlap(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len) {
    assert(a != NULL && a_len > 0);
    assert(b != NULL && b_len > 0);
    tokens left = tokens_of(a, a_len), right = tokens_of(b, b_len);
    uint32_t shortest = 0; /* bytes of the shortest topic both want: it has to be legal too */
    while (tokens_left(&left) && tokens_left(&right)) {
        token one = tokens_next(&left), other = tokens_next(&right);
        int rest_of_left = is(one, '>'), rest_of_right = is(other, '>');
        if (!rest_of_left && !rest_of_right && !is(one, '*') && !is(other, '*') &&
            !same(one, other))
            return 0;
        shortest += (one.len > other.len ? one.len : other.len) + 1;
        if (rest_of_left || rest_of_right) { /* what the other has left is a shortest topic's too */
            if (tokens_left(&left))
                shortest += (uint32_t)(left.end - left.at) + 1;
            if (tokens_left(&right))
                shortest += (uint32_t)(right.end - right.at) + 1;
            return shortest - 1 <= HM_TOPIC_MAX;
        }
    }
    return !tokens_left(&left) && !tokens_left(&right) && shortest - 1 <= HM_TOPIC_MAX;
}

int hm_pattern_covers(const uint8_t *wide, uint32_t wide_len, const uint8_t *narrow,
                      uint32_t narrow_len) {
    assert(wide != NULL && wide_len > 0);
    assert(narrow != NULL && narrow_len > 0);
    tokens allowed = tokens_of(wide, wide_len), wanted = tokens_of(narrow, narrow_len);
    while (tokens_left(&allowed) && tokens_left(&wanted)) {
        token may = tokens_next(&allowed);
        if (is(may, '>'))
            return 1;
        token want = tokens_next(&wanted);
        if (is(want, '>') || (!is(may, '*') && !same(may, want)))
            return 0;
    }
    return !tokens_left(&allowed) && !tokens_left(&wanted);
}

int hm_pattern_covers_prefix(const uint8_t *wide, uint32_t wide_len, const uint8_t *prefix,
                             uint32_t prefix_len) {
    assert(wide != NULL && wide_len > 0);
    assert(prefix != NULL || prefix_len == 0);
    static const uint8_t nothing[1];
    tokens allowed = tokens_of(wide, wide_len);
    tokens given = tokens_of(prefix_len > 0 ? prefix : nothing, prefix_len);
    for (;;) {
        token may = tokens_next(&allowed);
        if (is(may, '>'))
            return 1;
        token have = tokens_next(&given);
        /* The last one may go on in the topic, and without a '>' more tokens may follow it. */
        if (!tokens_left(&given) || !tokens_left(&allowed) || (!is(may, '*') && !same(may, have)))
            return 0;
    }
}
