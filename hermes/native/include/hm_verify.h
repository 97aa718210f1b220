/* hm_verify.h -- looks at a log's files without changing them; may run beside the broker that
 * writes them.
 *
 * Files are mapped read-only.  Of a segment that is being written, what its records covered at the
 * moment of looking is judged; one that retention takes away meanwhile is left out.
 */
#ifndef HM_VERIFY_H
#define HM_VERIFY_H

#include "hm_log.h"

/* cdef-begin -- an opaque result and the arrays in it. */
typedef struct hm_verification hm_verification;

enum { /* what a problem is about */
       HM_PROBLEM_FRAMES =
           1, /* frames [offset, resume) of the segment file are unsound; sound ones may follow */
       HM_PROBLEM_TORN =
           2, /* the same, at the end of the last, unsealed segment: a crash may do this */
       HM_PROBLEM_HEADER = 3, /* the header page, at `offset` */
       HM_PROBLEM_SEAL = 4,   /* the seal */
       HM_PROBLEM_INDEX = 5,  /* the index file, at `offset` of it; every message is still there */
       HM_PROBLEM_HOLE = 6,   /* messages between the segment before and this one are missing */
       HM_PROBLEM_END = 7,    /* the newest messages are missing: `segment` is the sequence after
                                 them, which the end mark names */
       HM_PROBLEM_MARK = 8,   /* a copy of the end mark; every message is still there */
};

typedef struct {
    uint64_t segment;       /* base sequence: names the file */
    uint64_t offset;        /* in the file, bytes */
    uint64_t resume;        /* where sound frames go on; 0: nowhere in this file */
    uint64_t first_missing; /* sequences [first, next) cannot be served */
    uint64_t next_sequence;
    int32_t kind;
    int32_t error; /* -HM_E*: what is wrong at `offset` */
} hm_problem;

typedef struct {
    uint64_t base_sequence;
    uint64_t next_sequence;
    uint64_t base_position;
    uint64_t messages; /* sound ones */
    uint64_t bytes;    /* of sound frames */
    uint64_t end;      /* offset after the last frame */
    uint64_t file_bytes;
    uint64_t index_bytes;
    uint64_t records;
    uint64_t created_ns;
    uint64_t first_time_ns; /* append times */
    uint64_t last_time_ns;
    uint64_t generation;
    int32_t sealed;
    int32_t problems; /* of this segment */
} hm_verified;

/* Verifies the log in `directory`: every frame, or with `frames` 0 only headers, seals and indexes
 * (then messages and bytes are what these claim).  -HM_EIO, -HM_ENOMEM, -HM_EVERSION: it cannot be
 * looked at. */
int hm_verify(const char *directory, int frames, uint64_t *progress,
              hm_verification **verification);
void hm_verification_free(hm_verification *verification);
/* Valid until the verification is freed; in the order of the log. */
const hm_verified *hm_verification_segments(const hm_verification *verification, uint64_t *count);
const hm_problem *hm_verification_problems(const hm_verification *verification, uint64_t *count);
/* cdef-end */

_Static_assert(sizeof(hm_problem) == 48, "read by Python");
_Static_assert(sizeof(hm_verified) == 112, "read by Python");

#endif
