/* hm_pattern.h -- topics and patterns: what is legal, and what matches.
 *
 * A topic is tokens separated by '.'.  In a pattern the token `*` stands for any one token, and
 * `>`, only as the last token, for one or more.  A token that merely contains one of these
 * characters is literal. No state: any thread may call.
 */
#ifndef HM_PATTERN_H
#define HM_PATTERN_H

#include <stdint.h>

#include "hm_error.h"

/* cdef-begin -- checks and matches over bytes. */
#define HM_TOPIC_MAX 255 /* bytes: its length has one byte in the frame header */

/* 0 if `name` is a legal topic: valid UTF-8, 1 to 255 bytes, no empty token, no NUL, no token that
 * is
 * `*` or `>`.  -HM_ETOPIC otherwise. */
int hm_topic_check(const uint8_t *name, uint32_t len);
/* The same for a pattern: a token may be `*` (any one token), the last may be `>` (one or more). */
int hm_pattern_check(const uint8_t *pattern, uint32_t len);
/* 1 if the legal `pattern` wants the legal topic `name`. */
int hm_pattern_match(const uint8_t *pattern, uint32_t pattern_len, const uint8_t *name,
                     uint32_t len);
/* 1 if some legal topic is wanted by both patterns. */
int hm_pattern_overlap(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len);
/* 1 if `wide` wants every topic that `narrow` wants. */
int hm_pattern_covers(const uint8_t *wide, uint32_t wide_len, const uint8_t *narrow,
                      uint32_t narrow_len);
/* 1 if the pattern `wide` wants every topic that begins with the bytes of `prefix`. */
int hm_pattern_covers_prefix(const uint8_t *wide, uint32_t wide_len, const uint8_t *prefix,
                             uint32_t prefix_len);
/* cdef-end */

#endif
