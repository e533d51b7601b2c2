/* Datagrams at a rate, as one flow or as many.
 *
 * flood ADDRESS RATE SECONDS PORTS
 *
 * Sends datagrams of one byte to ADDRESS, RATE of them a second, to PORTS ports from 2000 on in turn.
 * What a millisecond owes is sent by one system call or a few; who falls behind sends no more than
 * 2000 at once.  Prints how many were sent.  A datagram that the kernel could not take is sent again.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define AT_ONCE 2000
#define FIRST_PORT 2000

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    fprintf(stderr, "flood: %s: %s\n", what, strerror(errno));
    exit(1);
}

int main(int argc, char **argv) {
    static struct mmsghdr messages[AT_ONCE];
    static struct sockaddr_in to[AT_ONCE];
    static char byte = 'x';
    struct iovec content = {&byte, 1};
    if (argc != 5) {
        fprintf(stderr, "flood ADDRESS RATE SECONDS PORTS\n");
        return 2;
    }
    double rate = atof(argv[2]), seconds = atof(argv[3]);
    long ports = atol(argv[4]), sent = 0;
    int sender = socket(AF_INET, SOCK_DGRAM, 0);
    if (sender < 0) die("socket");
    for (int i = 0; i < AT_ONCE; i++) {
        to[i].sin_family = AF_INET;
        if (inet_pton(AF_INET, argv[1], &to[i].sin_addr) != 1) die(argv[1]);
        messages[i].msg_hdr.msg_name = &to[i];
        messages[i].msg_hdr.msg_namelen = sizeof to[i];
        messages[i].msg_hdr.msg_iov = &content;
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    double start = now_s(), now;
    while ((now = now_s()) < start + seconds) {
        long owed = (long)((now - start) * rate) - sent;
        if (owed > AT_ONCE) owed = AT_ONCE;
        for (long i = 0; i < owed; i++)
            to[i].sin_port = htons((unsigned short)(FIRST_PORT + (sent + i) % ports));
        int taken = owed > 0 ? sendmmsg(sender, messages, (unsigned)owed, 0) : 0;
        if (taken < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EPERM) die("sendmmsg");
        if (taken > 0) sent += taken;
        struct timespec rest = {0, 500000};
        nanosleep(&rest, NULL);
    }
    printf("%ld\n", sent);
    return 0;
}
