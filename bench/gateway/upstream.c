/* A fake engine that is never the bottleneck: one thread, epoll, answers made beforehand.
 *
 *     upstream LISTENERS CHUNKS PACE_MICROSECONDS
 *
 * Listens on LISTENERS ports of 127.0.0.1 and prints them on one line. A POST whose body says "stream":true is answered
 * with CHUNKS server-sent events, one each PACE_MICROSECONDS, every one with the time it was sent ("t=<monotonic ns>"),
 * then usage and [DONE]. Any other POST gets a chat completion of 1.1 KB, a GET a list of models.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
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

enum { MAX_FD = 16384, MAX_REQUEST = 1 << 18, TICK_NS = 500 * 1000 };

typedef struct {
    char *request;
    int length;
    bool is_listener, is_streaming;
    int sent_chunks;
    long next_ns;
} Peer;

static Peer peers[MAX_FD];
static int streaming[MAX_FD], streaming_count;
static int chunks, poller;
static long pace_ns;
static char answer[4096], models[512];
static int answer_length, models_length;

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void stop_streaming(int fd) {
    for (int i = 0; i < streaming_count; i++)
        if (streaming[i] == fd) streaming[i--] = streaming[--streaming_count];
    peers[fd].is_streaming = false;
}

static void hang_up(int fd) {
    stop_streaming(fd);
    free(peers[fd].request);
    peers[fd] = (Peer){0};
    close(fd);
}

static bool send_all(int fd, const char *data, int length) {
    while (length > 0) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent <= 0) return false;
        data += sent;
        length -= sent;
    }
    return true;
}

static bool send_chunk(int fd, const char *payload, int length, bool is_last) {
    char framed[2048];
    int size = snprintf(framed, sizeof framed, "%x\r\n%.*s\r\n%s", length, length, payload, is_last ? "0\r\n\r\n" : "");
    return send_all(fd, framed, size);
}

static const char COMMON[] =
    "\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion.chunk\",\"created\":1741569952,"
    "\"model\":\"fake\"";

/* The next event of a stream; the one after the last of text carries usage and the end. */
static bool advance(int fd) {
    Peer *peer = &peers[fd];
    char event[1024];
    int size;
    bool is_last = peer->sent_chunks == chunks;
    if (is_last)
        size = snprintf(event, sizeof event,
            "data: {%s,\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n"
            "data: {%s,\"choices\":[],\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n"
            "data: [DONE]\n\n", COMMON, COMMON, chunks, chunks + 19);
    else
        size = snprintf(event, sizeof event,
            "data: {%s,\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{\"content\":"
            "\"t=%ld \"},\"logprobs\":null,\"finish_reason\":null}]}\n\n", COMMON, now_ns());
    peer->sent_chunks++;
    peer->next_ns += pace_ns;
    if (!send_chunk(fd, event, size, is_last)) return false;
    if (is_last) stop_streaming(fd);
    return true;
}

static bool start_stream(int fd) {
    static const char HEAD[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    peers[fd].is_streaming = true;
    peers[fd].sent_chunks = 0;
    peers[fd].next_ns = now_ns() + pace_ns;
    streaming[streaming_count++] = fd;
    return send_all(fd, HEAD, sizeof HEAD - 1);
}

/* Answers the whole requests that have arrived. */
static bool answer_requests(int fd) {
    Peer *peer = &peers[fd];
    while (!peer->is_streaming) {
        peer->request[peer->length] = 0;
        char *head_end = strstr(peer->request, "\r\n\r\n");
        if (!head_end) return peer->length < MAX_REQUEST;
        char *header = strcasestr(peer->request, "\r\ncontent-length:");
        long body = header && header < head_end ? atol(header + 17) : 0;
        bool is_chunked = false;
        if ((header = strcasestr(peer->request, "\r\ntransfer-encoding:")) && header < head_end) {
            char *end = strstr(head_end + 4, "\r\n0\r\n\r\n");
            if (!end) return peer->length < MAX_REQUEST;
            is_chunked = true;
            body = end + 7 - (head_end + 4);
        }
        long total = head_end + 4 - peer->request + body;
        if (total > MAX_REQUEST) return false;
        if (!is_chunked && peer->length < total) return true;
        char kept = peer->request[total];
        peer->request[total] = 0;
        char *flag = strstr(head_end, "\"stream\"");
        bool wants_stream = flag && (flag += 8 + strspn(flag + 8, " :")) && *flag == 't';
        bool is_post = peer->request[0] == 'P';
        peer->request[total] = kept;
        memmove(peer->request, peer->request + total, peer->length - total);
        peer->length -= total;
        if (!is_post ? !send_all(fd, models, models_length)
                     : wants_stream ? !start_stream(fd) : !send_all(fd, answer, answer_length))
            return false;
    }
    return true;
}

static void receive(int fd) {
    Peer *peer = &peers[fd];
    ssize_t got = recv(fd, peer->request + peer->length, MAX_REQUEST - peer->length, 0);
    if (got <= 0) {
        hang_up(fd);
        return;
    }
    peer->length += got;
    if (!answer_requests(fd)) hang_up(fd);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        peers[fd] = (Peer){.request = malloc(MAX_REQUEST + 1)};
        watch(fd);
    }
}

static void send_due(void) {
    long now = now_ns();
    for (int i = 0; i < streaming_count; i++) {
        int fd = streaming[i];
        if (peers[fd].next_ns > now) continue;
        if (!advance(fd)) hang_up(fd);
        else if (!peers[fd].is_streaming && !answer_requests(fd)) hang_up(fd);
        if (i >= streaming_count || streaming[i] != fd) i--;
    }
}

static void prepare_answers(void) {
    char words[561], body[2048];
    for (int i = 0; i < 560; i++) words[i] = "token word "[i % 11];
    words[560] = 0;
    int size = snprintf(body, sizeof body,
        "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion\",\"created\":1741569952,"
        "\"model\":\"fake\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\","
        "\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{"
        "\"prompt_tokens\":19,\"completion_tokens\":110,\"total_tokens\":129,\"prompt_tokens_details\":{"
        "\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0,"
        "\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}},"
        "\"service_tier\":\"default\"}", words);
    answer_length = snprintf(answer, sizeof answer,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", size, body);
    size = snprintf(body, sizeof body,
        "{\"object\":\"list\",\"data\":[{\"id\":\"fake\",\"object\":\"model\",\"owned_by\":\"bench\",\"created\":0}]}");
    models_length = snprintf(models, sizeof models,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", size, body);
}

static int listen_anywhere(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) {
        perror("upstream: listen");
        exit(1);
    }
    getsockname(fd, (struct sockaddr *)&address, &size);
    peers[fd].is_listener = true;
    watch(fd);
    return ntohs(address.sin_port);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    chunks = atoi(arguments[2]);
    pace_ns = atol(arguments[3]) * 1000;
    signal(SIGPIPE, SIG_IGN);
    prepare_answers();
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = atoi(arguments[1]); i > 0; i--) printf("%d%c", listen_anywhere(), i > 1 ? ' ' : '\n');
    fflush(stdout);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct itimerspec ticks = {{0, TICK_NS}, {0, TICK_NS}};
    timerfd_settime(timer, 0, &ticks, NULL);
    watch(timer);
    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            long expirations;
            if (fd == timer) {
                if (read(timer, &expirations, sizeof expirations) > 0) send_due();
            } else if (peers[fd].is_listener) accept_all(fd);
            else if (peers[fd].request) receive(fd);
        }
    }
}
