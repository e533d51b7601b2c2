"""The one door to iptables: tables of both backends and families brought to what is desired.

::

    hashes      a rule's identity: a hash in its comment              pure
    plan        desired and held → the text for iptables-restore      pure
    legacy      what a legacy table holds, read from the kernel
    nft         what an iptables-nft table holds, read from the kernel
    extensions  a rule's words, and what iptables' extensions are told  pure
    entries     a rule's text → what iptables-legacy makes of it      pure
    inprocess   edits of a legacy table by python-iptables' libiptc
    nftrules    a rule's text → what iptables-nft makes of it         pure
    nftdirect   our chains in an iptables-nft table, written by netlink
    programs    iptables-restore and -save, their lock and errors
    backend     which backend a node uses; removing all that is ours
    driver      a table: held, desired, apply, watch
    together    tables of both families in one transaction of iptables-nft

A rule of ours is recognised by the comment ``cali:HASH``, never by reading its text back, and a
chain of ours by its name.  Nothing else in a table is written, moved or deleted.
"""
