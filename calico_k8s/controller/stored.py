"""Reading back what the controller wrote, decoded: for commands that look into a datastore."""

from typing import NamedTuple

from calico_k8s.datastore.store import Store
from calico_k8s.model import codec, keys
from calico_k8s.model.resources import Value


class StoredItems(NamedTuple):
    """Everything that is understood, and what was wrong with the rest, one sentence each."""

    items: dict[keys.Key, Value]
    problems: tuple[str, ...]


def read_items(store: Store) -> StoredItems:
    """All of one revision.  Raises: StoreError."""
    items: dict[keys.Key, Value] = {}
    problems: list[str] = []
    for entry in store.read(keys.V1).entries:
        key = keys.parse_path(entry.key)
        if key is None:
            continue
        value, met = codec.decode(key, entry.value)
        problems += met
        if value is not None:
            items[key] = value
    return StoredItems(items, tuple(problems))
