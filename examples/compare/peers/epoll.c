/* The yardstick: submit/ack on epoll, in C, without a library between the program and the kernel.
 *
 * Idiomatic: what epoll(7) recommends for edge-triggered sockets. Each socket is registered once,
 * for both directions. An event costs one recv into a buffer that all connections share, and one
 * send of all acks from another shared buffer. A short read proves that the socket is empty, so
 * there is no further recv. A connection holds memory only for part of a frame, or for acks that
 * its socket has not taken. While it holds unsent acks, it is not read (back-pressure). Each frame
 * is contiguous when it is acked, as a handler would need it.
 *
 * usage: epoll PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    HEADER = 13,             /* length, command and ID */
    ACK = 14,
    MAX_FRAME = 64 * 1024,
    READ = 256 * 1024,       /* at most this many bytes per recv */
    READS = 16,              /* at most this many recvs per event */
    EVENTS = 1024,
    PLACE = 4096,            /* if so many bytes are missing, recv into the frame itself */
};

struct conn {
    unsigned char *part;     /* first bytes of a frame, with room for all of it, or NULL */
    unsigned char *left;     /* acks that the socket has not taken, or NULL */
    uint32_t part_len, left_at, left_len;
    uint8_t is_open, ended;
};

static struct conn *conns;   /* by descriptor */
static int room;
static unsigned char in[MAX_FRAME + READ];
static unsigned char out[(sizeof in / HEADER + 2) * ACK];
static int ep;

static uint32_t big_endian(const unsigned char *bytes)
{
    uint32_t number;
    memcpy(&number, bytes, sizeof number);
    return ntohl(number);
}

/* Returns the length of a frame, or 0 if it is invalid. */
static uint32_t length_of(const unsigned char *frame)
{
    uint32_t length = big_endian(frame);
    return length < HEADER || length > MAX_FRAME ? 0 : length;
}

/* Writes the ack of a whole frame. Returns 0 if it is neither a conn nor a submit. */
static int answer(const unsigned char *frame, unsigned char *ack)
{
    unsigned char command = frame[4];
    if (command != 0x01 && command != 0x02)
        return 0;
    memcpy(ack, "\0\0\0\16", 4);
    ack[4] = command | 0x80;
    memcpy(ack + 5, frame + 5, 8);
    ack[13] = 0;
    return 1;
}

/* Frees the connection's memory and closes its socket. */
static void close_conn(int fd)
{
    free(conns[fd].part);
    free(conns[fd].left);
    memset(&conns[fd], 0, sizeof conns[fd]);
    close(fd);
}

/* Sends until the socket would block. Returns the bytes sent, or -1 on an error. */
static ssize_t send_bytes(int fd, const unsigned char *bytes, size_t length)
{
    size_t at = 0;
    while (at < length) {
        ssize_t n = send(fd, bytes + at, length - at, MSG_NOSIGNAL);
        if (n >= 0)
            at += n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            return -1;
    }
    return at;
}

/* Sends acks, and keeps the unsent ones. Returns 1 if all were sent, 0 if not, -1 to close. */
static int send_acks(int fd, struct conn *c, size_t length)
{
    ssize_t n = send_bytes(fd, out, length);
    if (n < 0 || (size_t)n == length)
        return n < 0 ? -1 : 1;
    c->left_at = 0;
    c->left_len = length - n;
    c->left = malloc(c->left_len);
    if (!c->left)
        return -1;
    memcpy(c->left, out + n, c->left_len);
    return 0;
}

/* Sends the acks that were kept. Returns the same as send_acks. */
static int flush(int fd, struct conn *c)
{
    ssize_t n = send_bytes(fd, c->left + c->left_at, c->left_len - c->left_at);
    if (n < 0)
        return -1;
    c->left_at += n;
    if (c->left_at < c->left_len)
        return 0;
    free(c->left);
    c->left = NULL;
    return 1;
}

/* Returns the length of the partial frame; its header's length while that is not known. */
static uint32_t part_size(const struct conn *c)
{
    return c->part_len < 4 ? HEADER : length_of(c->part);
}

/* Saves the first bytes of a frame. Returns 0 without memory. */
static int save_part(struct conn *c, const unsigned char *bytes, size_t length)
{
    c->part = malloc(length < 4 ? HEADER : length_of(bytes));
    if (!c->part)
        return 0;
    memcpy(c->part, bytes, length);
    c->part_len = length;
    return 1;
}

/* Acks all whole frames in the buffer, after the `acks` bytes of acks already written, and saves
 * the rest. Returns the bytes of acks written in all. Sets *good to 0 on an invalid frame. */
static size_t ack_frames(struct conn *c, size_t length, size_t acks, int *good)
{
    size_t at = 0;
    *good = 1;
    while (length - at >= 4) {
        uint32_t frame = length_of(in + at);
        if (frame == 0 || (length - at >= frame && !answer(in + at, out + acks))) {
            *good = 0;
            return acks;
        }
        if (length - at < frame)
            break;
        at += frame;
        acks += ACK;
    }
    if (at < length)
        *good = save_part(c, in + at, length - at);
    return acks;
}

/* Reads once, and acks all whole frames. Returns 1 if more may follow, 0 if not, -1 to close. */
static int read_once(int fd)
{
    struct conn *c = &conns[fd];
    size_t front = c->part_len, missing = c->part ? part_size(c) - front : 0, acks = 0;
    int good = 1, in_place = missing >= PLACE;
    ssize_t n;
    if (in_place) {
        struct iovec both[2] = {{c->part + front, missing}, {in, READ}};
        n = readv(fd, both, 2);
    } else {
        if (c->part)
            memcpy(in, c->part, front);
        n = recv(fd, in + front, READ, 0);
    }
    if (n <= 0)
        return n < 0 && errno == EINTR ? 1 : n < 0 && errno == EAGAIN ? 0 : -1;
    size_t wanted = in_place ? missing + READ : READ, in_len = front + n;
    if (in_place && (size_t)n < missing) {
        c->part_len += n;
        return c->ended;
    }
    if (in_place) {
        good = answer(c->part, out);
        acks = good ? ACK : 0;
        in_len = n - missing;
    }
    if (c->part) {
        free(c->part);
        c->part = NULL;
        c->part_len = 0;
    }
    if (good)
        acks = ack_frames(c, in_len, acks, &good);
    int sent = acks ? send_acks(fd, c, acks) : 1;
    if (!good || sent < 0)
        return -1;
    return sent && ((size_t)n == wanted || c->ended);
}

static void serve(int fd, uint32_t events)
{
    struct conn *c = &conns[fd];
    if (!c->is_open)
        return;
    /* From then on only recv's 0 proves that all was read. */
    c->ended |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    int more = c->left ? flush(fd, c) : (events & ~(uint32_t)EPOLLOUT) != 0;
    for (int reads = 0; more > 0; reads++) {
        if (reads == READS) { /* serve the others first: EPOLL_CTL_MOD reports the edge again */
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                    .data.fd = fd};
            epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
            return;
        }
        more = read_once(fd);
    }
    if (more < 0)
        close_conn(fd);
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
        if (fd >= room || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) != 0) {
            close(fd);
            continue;
        }
        conns[fd].is_open = 1;
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    room = files.rlim_cur < 1 << 20 ? (int)files.rlim_cur : 1 << 20;
    conns = calloc(room, sizeof *conns); /* untouched pages take no memory */

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons(argc > 1 ? atoi(argv[1]) : 8888),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* On Linux, accepted sockets inherit it. */
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    if (!conns || ep < 0 || bind(listener, (struct sockaddr *)&addr, sizeof addr) ||
        listen(listener, 4096) || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e)) {
        perror("epoll");
        return 1;
    }
    static struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        if (n < 0 && errno != EINTR) {
            perror("epoll_wait");
            return 1;
        }
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener);
            else
                serve(events[i].data.fd, events[i].events);
        }
    }
}
