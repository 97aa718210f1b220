/* hm_error.h -- every way a call of the core can fail.
 *
 * Functions return 0 or a count; failures are negative.  `hermes/native/_errors.py` turns each into
 * an exception.  Codes are never reused or renumbered: plugins are compiled against them.
 */
#ifndef HM_ERROR_H
#define HM_ERROR_H

/* cdef-begin -- one code per defined answer. */
enum {
    HM_EFULL = 1,      /* a bounded thing has no room; nothing was written */
    HM_EEMPTY = 2,     /* nothing to take */
    HM_EINVAL = 3,     /* the caller broke the contract */
    HM_ENOMEM = 4,     /* no memory */
    HM_ETRUNC = 5,     /* the buffer ends before the frame does: bring more bytes */
    HM_EMAGIC = 6,     /* does not begin with HRMS */
    HM_EVERSION = 7,   /* a frame version this core does not speak */
    HM_ETYPE = 8,      /* a frame type that has no business here */
    HM_EFLAGS = 9,     /* a reserved flag is set */
    HM_ELENGTH = 10,   /* a length over its limit, or inconsistent with the one around it */
    HM_EPADDING = 11,  /* a padding byte is not zero */
    HM_ECRC = 12,      /* the checksum does not match */
    HM_ETOPIC = 13,    /* not a legal topic or pattern */
    HM_ESEQUENCE = 14, /* not the successor of the sequence before it */
    HM_EUNKNOWN = 15,  /* an id that nobody opened */
    HM_EGONE = 16,     /* retention has passed this position */
    HM_EDAMAGED = 17,  /* a quarantined range stands here */
    HM_ENOSPACE = 18,  /* the disk, or the log's own bound, is full */
    HM_EIO = 19,       /* an I/O error: the log refuses appends until it is opened again */
    HM_ELIMIT = 20,    /* a configured bound (topics, filters, publishers) is reached */
    HM_EBUSY = 21,     /* somebody else owns it */
    HM_ESYS = 22,      /* a system call failed in a way not named above */
    HM_ECLOSED = 23,   /* it was closed */
    HM_ETIMEDOUT = 24, /* the deadline passed first */
    HM_EDENIED = 25,   /* this peer may not do this */
    HM_ECOLD = 26,     /* not in memory: the store behind the log has it */
    HM_EFILES = 27,    /* the process, or the machine, has no file descriptor left */
    HM_EFSIZE = 29,    /* a file would be larger than the process may make one */
    HM_EMAPS = 28,     /* memory cannot be mapped: too many maps, or too little address space */
};

/* A sentence for a code (positive or negative); never NULL. */
const char *hm_error_text(int code);
/* cdef-end */

#endif
