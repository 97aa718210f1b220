/* liburing.h -- the few functions of liburing that a ring here needs, found at run time.
 *
 * The package `liburing` of PyPI carries the C library inside its compiled module and exports all
 * of it.  We take the functions from there: no header and no library is needed to build, and what
 * the user upgrades is what runs.  Structures of liburing's are opaque; those of the kernel's
 * interface that we touch are declared below, as the kernel guarantees them.
 */
#ifndef HERMES_URING_LIBURING_H
#define HERMES_URING_LIBURING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* liburing's `struct io_uring` has 216 bytes; nothing in it is touched by us. */
#define HU_URING_SIZE 1024

typedef struct hu_uring hu_uring;
typedef struct hu_sqe hu_sqe;
typedef struct hu_buffers hu_buffers;

/* The kernel's struct io_uring_cqe and struct io_uring_params. */
typedef struct {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
} hu_cqe;
_Static_assert(sizeof(hu_cqe) == 16, "the kernel's layout");

typedef struct {
    uint32_t sq_entries;
    uint32_t cq_entries;
    uint32_t flags;
    uint32_t unused[4];
    uint32_t reserved[3];
    uint64_t offsets[10]; /* filled in by the kernel, read by liburing */
} hu_params;
_Static_assert(sizeof(hu_params) == 120, "the kernel's layout");

/* The kernel's struct io_uring_buf_reg, and the size of its struct io_uring_buf. */
typedef struct {
    uint64_t address;
    uint32_t entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
} hu_buffers_place;
_Static_assert(sizeof(hu_buffers_place) == 40, "the kernel's layout");
#define HU_BUFFER_ENTRY 16

typedef struct {
    int64_t seconds;
    long long nanoseconds;
} hu_timespec;

enum { /* of the kernel's interface */
       HU_SETUP_CQSIZE = 1u << 3,
       HU_SETUP_R_DISABLED = 1u << 6,
       HU_SETUP_SUBMIT_ALL = 1u << 7,
       HU_SETUP_TASKRUN_FLAG = 1u << 9,
       HU_SETUP_SINGLE_ISSUER = 1u << 12,
       HU_SETUP_DEFER_TASKRUN = 1u << 13,
       HU_SETUP_NO_SQARRAY = 1u << 16,
       HU_CQE_BUFFER = 1u << 0,
       HU_CQE_MORE = 1u << 1,
       HU_CQE_BUFFER_SHIFT = 16,
       HU_SQE_BUFFER_SELECT = 1u << 5,
       HU_SQE_CQE_SKIP_SUCCESS = 1u << 6,
       HU_BUFFERS_INCREMENTAL = 2,
       HU_CANCEL_ALL = 1u << 0,
       HU_CANCEL_ANY = 1u << 2,
};

/* Result, name without `io_uring_`, parameters. */
#define HU_FUNCTIONS(F)                                                                            \
    F(int, queue_init_params, (unsigned entries, hu_uring *ring, hu_params *params))               \
    F(void, queue_exit, (hu_uring * ring))                                                         \
    F(int, enable_rings, (hu_uring * ring))                                                        \
    F(int, register_ring_fd, (hu_uring * ring))                                                    \
    F(int, register_eventfd, (hu_uring * ring, int fd))                                            \
    F(int, cq_eventfd_toggle, (hu_uring * ring, _Bool enabled))                                    \
    F(hu_sqe *, get_sqe, (hu_uring * ring))                                                        \
    F(unsigned, sq_ready, (const hu_uring *ring))                                                  \
    F(unsigned, cq_ready, (const hu_uring *ring))                                                  \
    F(int, submit, (hu_uring * ring))                                                              \
    F(int, submit_and_get_events, (hu_uring * ring))                                               \
    F(int, submit_and_wait_timeout,                                                                \
      (hu_uring * ring, hu_cqe * *cqe, unsigned count, hu_timespec *timeout, void *signals))       \
    F(unsigned, peek_batch_cqe, (hu_uring * ring, hu_cqe * *cqes, unsigned count))                 \
    F(void, cq_advance, (hu_uring * ring, unsigned count))                                         \
    F(void, prep_multishot_accept,                                                                 \
      (hu_sqe * sqe, int fd, struct sockaddr *address, socklen_t *size, int flags))                \
    F(void, prep_recv_multishot, (hu_sqe * sqe, int fd, void *buffer, size_t size, int flags))     \
    F(void, prep_poll_add, (hu_sqe * sqe, int fd, unsigned events))                                \
    F(void, prep_send, (hu_sqe * sqe, int fd, const void *data, size_t size, int flags))           \
    F(void, prep_cancel64, (hu_sqe * sqe, uint64_t user_data, int flags))                          \
    F(void, sqe_set_data64, (hu_sqe * sqe, uint64_t user_data))                                    \
    F(void, sqe_set_flags, (hu_sqe * sqe, unsigned flags))                                         \
    F(void, sqe_set_buf_group, (hu_sqe * sqe, int group))                                          \
    F(int, register_buf_ring, (hu_uring * ring, hu_buffers_place * place, unsigned flags))         \
    F(void, buf_ring_add,                                                                          \
      (hu_buffers * buffers, void *address, unsigned size, unsigned short number, int mask,        \
       int offset))                                                                                \
    F(void, buf_ring_advance, (hu_buffers * buffers, int count))

#define HU_MEMBER(result, name, parameters) result(*name) parameters;
typedef struct {
    HU_FUNCTIONS(HU_MEMBER)
} hu_liburing;
#undef HU_MEMBER

/* Fills the table from the shared object at `path`, which must be loaded already and stays so.
 * NULL: all found; else the name of what is missing: a function, or `path` itself. */
const char *hu_liburing_find(hu_liburing *table, const char *path);

#endif
