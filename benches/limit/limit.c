/* What physics asks: the least system calls, and the cryptography, that a durable download takes on Linux.
 *
 *   limit one HOST PORT PATH FILE [CA]        one file, over HTTP, or over HTTPS where the certificates to trust are given
 *   limit many HOST PORT LIST FOLDER THREADS  files whose paths LIST has one a line, over one kept connection each thread
 *
 * One file: one connection, one buffer, space reserved, a write for each read; a second thread begins to write out and
 * syncs every 8 MiB; then the last sync, the name and its folder. Many: each thread fetches over its own connection, and whoever
 * brings the last of BATCH files makes all of them in a row, which takes less than each at its time; one more thread syncs
 * their file system, with the names that it gave before, and gives all their names; the folder is synced at the end. No URL, redirect, resume, checksum, retry, time limit or
 * journal: no tool could live with it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/ssl.h>
#endif

enum { BUFFER_BYTES = 256 * 1024, WINDOW_BYTES = 8 * 1024 * 1024, BATCH = 192, MADE_MAX = 3, THREADS_MAX = 64 };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

struct link {
    int socket;
#ifdef TLS
    SSL *tls;
#endif
};

static struct link opened(const char *host, const char *port, const char *authorities)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    if (inet_pton(AF_INET, host, &there.sin_addr) != 1)
        fail("the host is no IPv4 address");
    struct link link = {.socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    int one = 1;
    struct timeval most = {.tv_sec = 60};
    if (link.socket < 0 || setsockopt(link.socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
        setsockopt(link.socket, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most) < 0 ||
        connect(link.socket, (struct sockaddr *)&there, sizeof there) < 0)
        fail("connect");
#ifdef TLS
    if (authorities) {
        SSL_CTX *context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
        if (SSL_CTX_load_verify_locations(context, authorities, NULL) != 1)
            fail("certificates");
        SSL_CTX_set_read_ahead(context, 1);
        SSL_CTX_set_default_read_buffer_len(context, BUFFER_BYTES);
        link.tls = SSL_new(context);
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(link.tls), host);
        SSL_set_fd(link.tls, link.socket);
        if (SSL_connect(link.tls) != 1)
            fail("TLS");
    }
#else
    if (authorities) {
        fprintf(stderr, "built without TLS\n");
        exit(2);
    }
#endif
    return link;
}

static size_t taken(struct link *link, char *buffer, size_t room)
{
#ifdef TLS
    if (link->tls) {
        /* One call gives one record of at most 16 KiB; a write is worth more of them. */
        size_t have = 0;
        do {
            int got = SSL_read(link->tls, buffer + have, (int)(room - have));
            if (got <= 0)
                break;
            have += (size_t)got;
        } while (room - have >= 16 * 1024 && SSL_has_pending(link->tls));
        if (have == 0)
            fail("the server ended early");
        return have;
    }
#endif
    ssize_t got = recv(link->socket, buffer, room, 0);
    if (got <= 0)
        fail("the server ended early");
    return (size_t)got;
}

static void ask(struct link *link, const char *host, const char *path)
{
    char text[4096];
    int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host);
    if (length < 0 || (size_t)length >= sizeof text)
        fail("the path is too long");
#ifdef TLS
    if (link->tls) {
        if (SSL_write(link->tls, text, length) != length)
            fail("send");
        return;
    }
#endif
    if (send(link->socket, text, (size_t)length, MSG_NOSIGNAL) != length)
        fail("send");
}

/* Reads until the head of an answer is there; gives its length, that of the content, and how much is in the buffer. */
static size_t head(struct link *link, char *buffer, size_t room, size_t *content, size_t *have)
{
    *have = 0;
    for (;;) {
        *have += taken(link, buffer + *have, room - 1 - *have);
        buffer[*have] = 0;
        char *end = strstr(buffer, "\r\n\r\n");
        if (end) {
            char *length = strcasestr(buffer, "\r\nContent-Length: ");
            if (strncmp(buffer, "HTTP/1.1 200", 12) != 0 || !length || length > end) {
                fprintf(stderr, "no plain answer\n");
                exit(1);
            }
            *content = strtoull(length + 18, NULL, 10);
            return (size_t)(end - buffer) + 4;
        }
        if (*have >= room - 1)
            fail("the head is too long");
    }
}

static void put(int file, const char *bytes, size_t count)
{
    while (count) {
        ssize_t done = write(file, bytes, count);
        if (done <= 0)
            fail("write");
        bytes += done;
        count -= (size_t)done;
    }
}

static void sync_folder(const char *folder)
{
    int opened_folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened_folder < 0 || fsync(opened_folder) < 0)
        fail(folder);
    close(opened_folder);
}

static void sync_folder_of(const char *path)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = 0;
    sync_folder(slash ? folder : ".");
}

/* The thread that syncs: told how much is written, it syncs that, one window at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
static size_t written;
static int is_done;

static void *syncing(void *argument)
{
    int file = *(int *)argument;
    size_t synced = 0;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (written - synced < WINDOW_BYTES && !is_done)
            pthread_cond_wait(&bell, &lock);
        if (is_done)
            break;
        synced = written;
        pthread_mutex_unlock(&lock);
        if (fdatasync(file) < 0)
            fail("fdatasync");
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void one(const char *host, const char *port, const char *path, const char *name, const char *authorities)
{
    static char buffer[BUFFER_BYTES];
    char part[4096];
    snprintf(part, sizeof part, "%s.part", name);
    struct link link = opened(host, port, authorities);
    ask(&link, host, path);
    int file = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0)
        fail(part);
    size_t content, have;
    size_t skip = head(&link, buffer, sizeof buffer, &content, &have);
    if (content && fallocate(file, 0, 0, (off_t)content) < 0)
        fail("fallocate");
    pthread_t thread;
    if (pthread_create(&thread, NULL, syncing, &file))
        fail("thread");
    put(file, buffer + skip, have - skip);
    size_t at = have - skip, told = 0;
    while (at < content) {
        size_t room = content - at < sizeof buffer ? content - at : sizeof buffer;
        size_t got = taken(&link, buffer, room);
        put(file, buffer, got);
        at += got;
        if (at - told >= WINDOW_BYTES) {
            told = at;
            pthread_mutex_lock(&lock);
            written = at;
            pthread_cond_signal(&bell);
            pthread_mutex_unlock(&lock);
        }
    }
    pthread_mutex_lock(&lock);
    is_done = 1;
    pthread_cond_signal(&bell);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    if (fdatasync(file) < 0 || rename(part, name) < 0)
        fail(name);
    sync_folder_of(name);
}

static const char *the_host, *the_port, *the_folder;
static char **paths;
static size_t paths_count, next_path;

/* Files that have come whole, and, once `made`, are on the disk under their first names. */
struct batch {
    int count;
    struct {
        int file;
        size_t length;
        char *content;
        char name[512];
    } files[BATCH];
};

static pthread_mutex_t desk = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t has_come = PTHREAD_COND_INITIALIZER, has_room = PTHREAD_COND_INITIALIZER;
/* Those who were let in before there were MADE_MAX may each bring one more. */
static struct batch *filled, *made[MADE_MAX + THREADS_MAX];
static int made_count, is_last;

static struct batch *empty(void)
{
    struct batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        fail("memory");
    return batch;
}

static void part_of(char *part, size_t room, const char *name)
{
    if ((size_t)snprintf(part, room, "%s.part", name) >= room)
        fail("the path is too long");
}

static void make(struct batch *batch)
{
    for (int at = 0; at < batch->count; at++) {
        char part[520];
        part_of(part, sizeof part, batch->files[at].name);
        batch->files[at].file = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (batch->files[at].file < 0)
            fail(part);
        put(batch->files[at].file, batch->files[at].content, batch->files[at].length);
        free(batch->files[at].content);
    }
    pthread_mutex_lock(&desk);
    made[made_count++] = batch;
    pthread_cond_signal(&has_come);
    pthread_mutex_unlock(&desk);
}

static void publish(struct batch *batch)
{
    if (syncfs(batch->files[0].file) < 0)
        fail("syncfs");
    for (int at = 0; at < batch->count; at++) {
        char part[520];
        part_of(part, sizeof part, batch->files[at].name);
        close(batch->files[at].file);
        if (rename(part, batch->files[at].name) < 0)
            fail(batch->files[at].name);
    }
}

static void *publishing(void *argument)
{
    (void)argument;
    for (;;) {
        struct batch *batch = NULL;
        pthread_mutex_lock(&desk);
        while (made_count == 0 && !is_last)
            pthread_cond_wait(&has_come, &desk);
        if (made_count)
            batch = made[--made_count];
        pthread_cond_broadcast(&has_room);
        pthread_mutex_unlock(&desk);
        if (!batch)
            return NULL;
        publish(batch);
        free(batch);
    }
}

static void hand_over(const char *name, const char *content, size_t length)
{
    char *copy = malloc(length + 1);
    if (!copy)
        fail("memory");
    memcpy(copy, content, length);
    struct batch *full = NULL;
    pthread_mutex_lock(&desk);
    while (made_count >= MADE_MAX)
        pthread_cond_wait(&has_room, &desk);
    if (!filled)
        filled = empty();
    int at = filled->count++;
    filled->files[at].content = copy;
    filled->files[at].length = length;
    snprintf(filled->files[at].name, sizeof filled->files[at].name, "%s", name);
    if (filled->count == BATCH) {
        full = filled;
        filled = NULL;
    }
    pthread_mutex_unlock(&desk);
    if (full)
        make(full);
}

static void *fetching(void *argument)
{
    (void)argument;
    char *buffer = malloc(BUFFER_BYTES);
    if (!buffer)
        fail("memory");
    struct link link = opened(the_host, the_port, NULL);
    for (;;) {
        size_t number = __atomic_fetch_add(&next_path, 1, __ATOMIC_RELAXED);
        if (number >= paths_count)
            break;
        ask(&link, the_host, paths[number]);
        size_t content, have;
        size_t skip = head(&link, buffer, BUFFER_BYTES, &content, &have);
        if (content >= BUFFER_BYTES - skip)
            fail("the file is not small");
        while (have < skip + content)
            have += taken(&link, buffer + have, BUFFER_BYTES - have);
        char name[512];
        snprintf(name, sizeof name, "%s/%s", the_folder, strrchr(paths[number], '/') + 1);
        hand_over(name, buffer + skip, content);
    }
    close(link.socket);
    free(buffer);
    return NULL;
}

static void many(const char *list, int threads)
{
    FILE *file = fopen(list, "r");
    if (!file)
        fail(list);
    size_t room = 1024;
    paths = malloc(room * sizeof *paths);
    char line[512];
    while (paths && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (paths_count == room)
            paths = realloc(paths, (room *= 2) * sizeof *paths);
        if (!paths || !strchr(line, '/') || !(paths[paths_count++] = strdup(line)))
            fail(list);
    }
    fclose(file);
    pthread_t all[THREADS_MAX], publisher;
    if (pthread_create(&publisher, NULL, publishing, NULL))
        fail("thread");
    for (int at = 0; at < threads; at++)
        if (pthread_create(&all[at], NULL, fetching, NULL))
            fail("thread");
    for (int at = 0; at < threads; at++)
        pthread_join(all[at], NULL);
    if (filled)
        make(filled);
    pthread_mutex_lock(&desk);
    is_last = 1;
    pthread_cond_signal(&has_come);
    pthread_mutex_unlock(&desk);
    pthread_join(publisher, NULL);
    sync_folder(the_folder);
}

int main(int count, char **words)
{
    int threads = count == 7 ? atoi(words[6]) : 0;
    if ((count == 6 || count == 7) && strcmp(words[1], "one") == 0) {
        one(words[2], words[3], words[4], words[5], count == 7 ? words[6] : NULL);
    } else if (threads >= 1 && threads <= THREADS_MAX && strcmp(words[1], "many") == 0) {
        the_host = words[2];
        the_port = words[3];
        the_folder = words[5];
        many(words[4], threads);
    } else {
        fprintf(stderr, "usage: limit one HOST PORT PATH FILE [CA] | limit many HOST PORT LIST FOLDER THREADS\n");
        return 2;
    }
    return 0;
}
