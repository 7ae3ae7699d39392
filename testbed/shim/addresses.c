/* A kernel that takes no address away: LD_PRELOAD this, and name a file in SIDEKICK_LAB_ADDRESSES_STAY. While that file exists,
 * every request to remove an address (RTM_DELADDR) fails with EPERM. All else passes. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_netlink(int socket)
{
	int domain = 0;
	socklen_t length = sizeof domain;
	return getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_NETLINK;
}

ssize_t send(int socket, const void *bytes, size_t length, int flags)
{
	const struct nlmsghdr *request = bytes;
	const char *stay = getenv("SIDEKICK_LAB_ADDRESSES_STAY");
	if (stay && length >= sizeof *request && request->nlmsg_type == RTM_DELADDR && is_netlink(socket) &&
	    access(stay, F_OK) == 0) {
		errno = EPERM;
		return -1;
	}
	return syscall(SYS_sendto, socket, bytes, length, flags, NULL, 0);
}
