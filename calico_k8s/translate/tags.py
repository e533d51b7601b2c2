"""Names of tags: labels and namespaces as words that are the same on every node.

In: a namespace, a label's key and value.  Out: a tag, different for every different input:
``access=backend`` in ``prod`` is ``prod_access_backend``, namespace ``prod`` is
``namespace_prod``.

A part is written as it is with each ``_`` doubled, where it holds only ``[A-Za-z0-9_.-]`` and has
a letter or digit at both ends.  In any other part each character outside the set becomes ``_``
and ``-`` and a hash of the original follow; so they do on a part that looks as if it had such a
hash.  Hence no two labels collide: a part ends in a hash if and only if it was altered, and
between parts stands a ``_`` that is neither doubled nor at a part's end.
"""

import re
import sys
from functools import lru_cache
from hashlib import sha256

from calico_k8s.model.names import TagName

HASH_LENGTH = 10
"""Hexadecimal digits: labels that share a tag would have to be in one namespace, and be sought."""

_PLAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
_HASHED = re.compile(rf".*-[0-9a-f]{{{HASH_LENGTH}}}")
_OUTSIDE = re.compile(r"[^A-Za-z0-9_.-]")


def label_tag(namespace: str, key: str, value: str) -> TagName:
    """The tag of the pods of a namespace that carry a label; one text for all of them."""
    return TagName(sys.intern(f"{_part(namespace)}_{_part(key)}_{_part(value)}"))


def namespace_tag(namespace: str) -> TagName:
    """The tag of all pods of a namespace."""
    return TagName(f"namespace_{_part(namespace)}")


@lru_cache(maxsize=65536)
def _part(text: str) -> str:
    doubled = text.replace("_", "__")
    if _PLAIN.fullmatch(text) and not _HASHED.fullmatch(text):
        return doubled
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_LENGTH]
    return f"{_OUTSIDE.sub('_', doubled)}-{digest}"
