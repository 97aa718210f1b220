/* udp_medium.c -- input that a native call of the broker's has left behind is reported again.
 *
 * Such a call may end before it has taken all that stands there, and nothing more need come: what
 * is left must be found by the next poll, and what was taken must not.
 */
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hm_medium.h"
#include "hu_endpoint.h"
#include "udp_client.h"

#define SIZE 1000

static hu_event events[HU_EVENTS_MAX];

static void send_data(int fd, uint64_t session) {
    uint8_t out[HU_HEADER + SIZE] = {0};
    hu_header header = {.session = session, .type = HU_DATA, .window = 1 << 20};
    hu_header_encode(out, &header);
    hu_seal(out, sizeof out);
    ssize_t sent = send(fd, out, sizeof out, 0);
    assert(sent == sizeof out);
}

static uint32_t poll_readable(hu_endpoint *endpoint, uint32_t slot) {
    uint32_t count = hu_endpoint_poll(endpoint, events);
    return count == 1 && events[0].slot == slot && (events[0].flags & HU_READABLE) != 0;
}

int main(void) {
    uint8_t taken[SIZE];
    struct sockaddr_in here, there;
    hu_endpoint *endpoint;
    hu_header header;
    int error = 0, fd = bound(&here), client = bound(&there);
    hu_options options = {.fd = fd,
                          .tap_fd = -1,
                          .listens = 1,
                          .sessions_max = 4,
                          .datagram = 2000,
                          .liveness_ms = 10000,
                          .window = 65536,
                          .copy_size = 65536};
    hu_bind((uintptr_t)hm_api_get());
    int status = hu_endpoint_new(&options, &endpoint);
    assert(status == 0);
    status = connect(client, (const struct sockaddr *)&here, sizeof here);
    assert(status == 0);
    uint32_t slot = join(endpoint, client, 1);

    send_data(client, hu_session_id(hu_endpoint_session(endpoint, slot)));
    poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 1000);
    uint32_t readable = poll_readable(endpoint, slot);
    assert(readable);
    hm_medium *medium = (hm_medium *)hu_endpoint_medium(endpoint, slot);
    int64_t size = medium->receive(medium->context, taken, 400, 0, 0, &error);
    assert(size == 400);
    readable = poll_readable(endpoint, slot);
    assert(readable);
    size = medium->receive(medium->context, taken, 400, 0, 0, &error);
    assert(size == 400);
    size = medium->receive(medium->context, taken, sizeof taken, 0, 0, &error);
    assert(size == 200);
    readable = poll_readable(endpoint, slot);
    assert(!readable);

    hu_endpoint_free(endpoint);
    while (hear(client, buffer, &header) > 0)
        ;
    close(client);
    close(fd);
    printf("nothing was left behind\n");
    return 0;
}
