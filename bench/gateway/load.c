/* A load generator: one thread, epoll, keep-alive, one request in flight per connection.
 *
 *     load closed PORT CONNECTIONS SECONDS REQUEST_FILE      each connection asks again as soon as it is answered
 *     load rate   PORT CONNECTIONS SECONDS REQUEST_FILE RPS  requests leave at even times, whoever is idle takes one
 *     load stream PORT CONNECTIONS ROUNDS  REQUEST_FILE      streams; delays are from the times inside the events
 *
 * The file holds a whole request. Prints one line of JSON: what was answered, errors, latencies in microseconds (of
 * requests, or of events between the upstream's send and their arrival).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 4096, MAX_SAMPLES = 8 << 20, READ_BYTES = 1 << 16, CARRY_BYTES = 64, STALL_NS = 20000000 };

typedef enum { IDLE, SENDING, HEAD, BODY } State;

typedef struct {
    int fd;
    State state;
    long began_ns, left_bytes;
    int sent_bytes, head_bytes, carry_bytes, rounds;
    bool is_chunked, closes;
    char head[4096], carry[CARRY_BYTES];
} Connection;

static Connection connections[MAX_CONNECTIONS];
static int count, poller, port, rounds, finished;
static bool is_stream, is_rate, is_over;
static char *request;
static int request_length;
static long *samples, sample_count, answered, errors;
static int idle[MAX_CONNECTIONS], idle_count;

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void sample(long nanoseconds) {
    if (sample_count < MAX_SAMPLES) samples[sample_count++] = nanoseconds;
}

static void begin(Connection *c);

static void connect_to(Connection *c) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
        perror("load: connect");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

/* An answer is whole, or the connection failed: the next request's turn. */
static void done(Connection *c, bool is_error) {
    if (is_error) errors++;
    else {
        answered++;
        if (!is_stream) sample(now_ns() - c->began_ns);
    }
    if (is_error || c->closes) {
        close(c->fd);
        connect_to(c);
    }
    c->state = IDLE;
    if (is_rate) idle[idle_count++] = c - connections;
    else if (is_stream ? ++c->rounds < rounds : !is_over) begin(c);
    else finished++;
}

static void write_request(Connection *c) {
    int flags = MSG_NOSIGNAL;
    while (c->sent_bytes < request_length) {
        ssize_t sent = send(c->fd, request + c->sent_bytes, request_length - c->sent_bytes, flags);
        if (sent <= 0) {
            done(c, true);
            return;
        }
        c->sent_bytes += sent;
    }
    c->state = HEAD;
}

static void begin(Connection *c) {
    c->began_ns = now_ns();
    c->sent_bytes = c->head_bytes = c->carry_bytes = 0;
    c->state = SENDING;
    write_request(c);
}

/* Takes the times out of streamed events, and keeps the end for what is cut in two. */
static void read_times(Connection *c, const char *data, int length) {
    static char joined[CARRY_BYTES + READ_BYTES + 1];
    long now = now_ns();
    memcpy(joined, c->carry, c->carry_bytes);
    memcpy(joined + c->carry_bytes, data, length);
    int size = c->carry_bytes + length, from = 0;
    joined[size] = 0;
    for (char *at; (at = strstr(joined + from, "\"t=")) != NULL;) {
        char *end;
        long sent = strtol(at + 3, &end, 10);
        if (!*end) break;
        sample(now - sent);
        from = end - joined;
    }
    int keep = size - from < CARRY_BYTES ? size - from : CARRY_BYTES;
    memcpy(c->carry, joined + size - keep, keep);
    c->carry_bytes = keep;
}

/* Whether the chunked body has ended with what was just read. */
static bool ends_body(Connection *c, const char *data, int length) {
    char tail[8] = "";
    int kept = length < 5 ? 5 - length : 0;
    memcpy(tail, c->head + sizeof c->head - kept, kept);
    memcpy(tail + kept, data + (length < 5 ? 0 : length - 5), length < 5 ? length : 5);
    memcpy(c->head + sizeof c->head - 5, tail, 5);
    return !memcmp(tail, "0\r\n\r\n", 5);
}

static void read_body(Connection *c, const char *data, int length) {
    if (is_stream) read_times(c, data, length);
    if (c->is_chunked) {
        if (ends_body(c, data, length)) done(c, false);
    } else if ((c->left_bytes -= length) <= 0) done(c, c->left_bytes < 0);
}

static void read_head(Connection *c, char *data, int length) {
    static char text[sizeof c->head + READ_BYTES + 1];
    memcpy(text, c->head, c->head_bytes);
    memcpy(text + c->head_bytes, data, length);
    int size = c->head_bytes + length;
    text[size] = 0;
    char *end = strstr(text, "\r\n\r\n");
    if (!end) {
        if (size > (int)sizeof c->head) done(c, true);
        else memcpy(c->head, text, c->head_bytes = size);
        return;
    }
    char *header = strcasestr(text, "\r\ncontent-length:");
    c->left_bytes = header && header < end ? atol(header + 17) : 0;
    header = strcasestr(text, "\r\ntransfer-encoding: chunked");
    c->is_chunked = header && header < end;
    header = strcasestr(text, "\r\nconnection: close");
    c->closes = header && header < end;
    memset(c->head + sizeof c->head - 5, 0, 5);
    if (strncmp(text + 9, "200", 3)) {
        if (!errors) fprintf(stderr, "load: %.300s\n", text);
        done(c, true);
        return;
    }
    c->state = BODY;
    int rest = size - (end + 4 - text);
    if (rest > 0) {
        static char body[sizeof text];
        memcpy(body, end + 4, rest);
        read_body(c, body, rest);
    } else if (!c->is_chunked && c->left_bytes == 0) done(c, false);
}

static void receive(Connection *c) {
    static char data[READ_BYTES];
    ssize_t got = recv(c->fd, data, sizeof data, 0);
    if (got <= 0) done(c, c->state != IDLE);
    else if (c->state == HEAD) read_head(c, data, got);
    else if (c->state == BODY) read_body(c, data, got);
}

static int compare(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) {
    return sample_count ? samples[(long)((sample_count - 1) * share)] / 1000.0 : 0;
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror("load: request");
        exit(1);
    }
    request = malloc(1 << 22);
    request_length = fread(request, 1, 1 << 22, file);
    fclose(file);
}

static int start_timer(long period_ns) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct itimerspec ticks = {
        {period_ns / 1000000000L, period_ns % 1000000000L}, {period_ns / 1000000000L, period_ns % 1000000000L}};
    timerfd_settime(timer, 0, &ticks, NULL);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    return timer;
}

int main(int argument_count, char **arguments) {
    if (argument_count < 6) return 2;
    is_stream = !strcmp(arguments[1], "stream");
    is_rate = !strcmp(arguments[1], "rate");
    port = atoi(arguments[2]);
    count = atoi(arguments[3]);
    rounds = atoi(arguments[4]);
    read_request(arguments[5]);
    samples = malloc(sizeof(long) * MAX_SAMPLES);
    poller = epoll_create1(EPOLL_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);
    int timer = start_timer(is_rate ? (long)(1e9 / atof(arguments[6])) : 100000000L);
    long began = now_ns(), ends = is_stream ? began + 600 * 1000000000L : began + (long)(atof(arguments[4]) * 1e9);
    for (int i = 0; i < count; i++) connect_to(&connections[i]);
    for (int i = 0; i < count; i++)
        if (is_rate) idle[idle_count++] = i;
        else begin(&connections[i]);
    struct epoll_event events[256];
    while (is_rate ? now_ns() < ends || (idle_count < count && now_ns() < ends + STALL_NS * 100L) : finished < count) {
        int ready = epoll_wait(poller, events, 256, 1000);
        long now = now_ns();
        if (now > ends + 30000000000L) break;
        is_over = now >= ends;
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            long expirations;
            if (c) receive(c);
            else if (read(timer, &expirations, sizeof expirations) > 0 && is_rate && !is_over) {
                if (idle_count) begin(&connections[idle[--idle_count]]);
                else errors++;
            }
        }
    }
    double seconds = (now_ns() - began) / 1e9;
    qsort(samples, sample_count, sizeof(long), compare);
    printf("{\"answered\":%ld,\"errors\":%ld,\"seconds\":%.3f,\"samples\":%ld,\"p50_us\":%.1f,\"p99_us\":%.1f}\n", answered,
           errors, seconds, sample_count, percentile(.5), percentile(.99));
}
