"""The native nftables backend: a table of our own in each family, written over netlink.

::

    elements    a set, a member → nftables' sets and elements          pure
    disjoint    nets that lie within others, left out                  pure
    images      a chain as it is held, and as it is read back          pure
    batch       what one transaction changes, in the kernel's order    pure
    family      one family's table: desired, held, what differs
    sets        the sets of both families, for the ipset driver
    driver      both families as one: transactions, generations, what an earlier run left

What is written are the renderer's own values, rule by rule and member by member; only three things
have another shape here.  The mark of an endpoint is set by a chain that a verdict map leads to,
the leaves of a mark tree are one verdict map, and nets of a set that lie within another are left
out, since nftables' intervals may not overlap.
"""
