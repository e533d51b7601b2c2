"""A virtual cluster on this machine: nodes and pods as network namespaces, and probes between them.

::

    plan         what is to be built, as values                                     pure
    topology     where every link, address and route goes                           pure
    links        links, addresses and routes as netlink messages                    pure
    netns        namespaces: make, enter, remove, sweep what a killed run left
    interrupts   Ctrl-C and SIGTERM unwind, and wait while things are removed
    cluster      the whole network up and down; pods added and removed
    kubeproxy    cluster IPs by DNAT, as kube-proxy has them

    question     a question to a pod and what became of it, as values               pure
    packets      SCTP packets as bytes                                              pure
    beats        what a stream recorded, and when its verdict changed               pure
    loop         one thread, one epoll: sockets and timers
    listener     what every pod answers
    sources      sockets in the namespaces of those who ask
    exchange     one question and its answer, in every protocol
    live         a connection that stays
    stream       questions without end
    probe        the door to these: many questions at once, and streams

Nothing in these knows what a policy is: the real controller and the real Felix run in the nodes.
No interface, address, route, rule or setting of the machine's own namespace is ever changed.
"""
