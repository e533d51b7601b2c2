"""A virtual cluster on this machine: nodes and pods as network namespaces, and probes between them.

::

    plan         what is to be built, as values                               pure
    netns        namespaces: make, enter, remove, sweep what a killed run left
    links        interfaces, addresses and routes as netlink messages         pure
    topology     where every link, address and route goes
    cluster      the whole thing up and down; pods added and removed
    kubeproxy    cluster IPs by DNAT, as kube-proxy has them
    loop         one thread, one epoll: sockets and timers
    packets      SCTP and echo packets as bytes                               pure
    listener     what every pod answers
    exchange     one question to a pod and its answer, in every protocol
    probe        many questions at once: allow or deny
    stream       questions without end: when did the verdict change
    interrupts   Ctrl-C and SIGTERM unwind, and wait while things are removed

Nothing here knows what a policy is: the real controller and the real Felix run in these nodes.
No interface, address, route or rule is ever added to the machine's own namespace.
"""
