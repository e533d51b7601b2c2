"""What names have which addresses: learnt from the DNS answers that pods receive.

::

    a trusted server's answer ─► POSTROUTING ─► NFQUEUE ─► listener, a thread ─► inbox
                                    held ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┐  │
    the pod ◄── released ◄── the sets are written ◄── loop ◄── book ◄── learning ◄┘
                                                               └► journal, a file

While no set asks a domain there is no rule, no queue and no thread.
"""
