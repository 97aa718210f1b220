/* hm_error.c -- the texts of the error numbers. */
#include "hm_error.h"

const char *hm_error_text(int code) {
    switch (code < 0 ? -code : code) {
    case 0:
        return "no error";
    case HM_EFULL:
        return "full: nothing was written";
    case HM_EEMPTY:
        return "empty: nothing to take";
    case HM_EINVAL:
        return "invalid argument";
    case HM_ENOMEM:
        return "out of memory";
    case HM_ETRUNC:
        return "truncated: the buffer ends before the frame does";
    case HM_EMAGIC:
        return "not a frame: it does not begin with HRMS";
    case HM_EVERSION:
        return "a frame version that is not spoken here";
    case HM_ETYPE:
        return "a frame type that may not stand here";
    case HM_EFLAGS:
        return "a reserved flag is set";
    case HM_ELENGTH:
        return "a length over its limit, or at odds with the one around it";
    case HM_EPADDING:
        return "a padding byte is not zero";
    case HM_ECRC:
        return "the checksum does not match";
    case HM_ETOPIC:
        return "not a legal topic or pattern";
    case HM_ESEQUENCE:
        return "not the successor of the sequence before it";
    case HM_EUNKNOWN:
        return "an id that nobody opened";
    case HM_EGONE:
        return "retention has passed this position";
    case HM_EDAMAGED:
        return "a damaged range stands here";
    case HM_ENOSPACE:
        return "the disk, or the log's own bound, is full";
    case HM_EIO:
        return "an I/O error: appends are refused until the log is opened again";
    case HM_ELIMIT:
        return "a configured bound is reached";
    case HM_EBUSY:
        return "somebody else owns it";
    case HM_ESYS:
        return "a system call failed";
    case HM_ECLOSED:
        return "it was closed";
    case HM_ETIMEDOUT:
        return "the deadline passed first";
    case HM_EDENIED:
        return "this peer may not do this";
    case HM_ECOLD:
        return "it is not in memory: the store behind the log has it";
    case HM_EFILES:
        return "no file descriptor is left for the log: raise `ulimit -n` (LimitNOFILE= of a "
               "service), "
               "or close connections";
    case HM_EFSIZE:
        return "a file of the log would be larger than this process, or its file system, may make "
               "one: raise `ulimit -f` (LimitFSIZE= of a service), or choose smaller segments";
    case HM_EMAPS:
        return "memory cannot be mapped for the log: choose larger segments, or raise "
               "vm.max_map_count (sysctl) or `ulimit -v`";
    default:
        return "an unknown error code";
    }
}
