"""Refuses at the door: a validating webhook, and the certificate it serves by.

In come the API server's questions about objects that somebody writes, out go answers: refused,
with the text that ``lint`` and Events would give, or not.  Nothing is kept of what was asked, and
nothing depends on it: where nobody answers, the API server goes on as if there were no webhook.

==============  ===================================================================
``review``      what is answered to a question; pure
``material``    a certificate, its key, and who is to be believed; pure
``keeper``      both replicas serve by the leader's certificate, in time renewed
``server``      HTTPS: bounded in size, time and number
==============  ===================================================================
"""
