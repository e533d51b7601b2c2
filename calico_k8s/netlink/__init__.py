"""Raw netlink with ``struct`` alone: the few messages that stand in Felix's hot paths.

::

    wire        headers and attributes as bytes                    pure
    socket      one socket: batches with acks, dumps, events
    ipset       create, list, swap, destroy; members in batches
    members     a member's text to and from the kernel's bytes     pure
    conntrack   dump (filtered in the kernel), set mark bits, delete
    routing     links, neighbours, routes; events as they change
    nftables    generation and rules of a table, as handles

NFLOG receive will stand beside these.  A socket works in the network namespace of the thread
that opens it, for as long as it lives.  Nothing here knows what a policy is.
"""
