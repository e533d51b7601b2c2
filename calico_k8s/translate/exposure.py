"""Which open services expose which pods, kept up to date.

In: pods, open services and endpoint slices, coming and going.  Out: the services of a pod, and the
pods that a change concerns.  Only pods and services of one namespace ever meet here: a service
never opens somebody else's pods.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from calico_k8s.model.addresses import Address
from calico_k8s.translate.findings import Name
from calico_k8s.translate.services import Exposure, SliceReading

_Key = TypeVar("_Key")


class _LabelKey(NamedTuple):
    namespace: str
    key: str
    value: str


class _AddressKey(NamedTuple):
    namespace: str
    address: Address


class _PodFacts(NamedTuple):
    labels: Mapping[str, str]
    addresses: tuple[Address, ...]


_NO_FACTS = _PodFacts({}, ())


class MultiMap(Generic[_Key]):
    """Names by key; a key without names is not kept.

    A name that is alone under its key stands there itself: nearly every address has one pod, and a
    set for each would be a tenth of what the controller holds.
    """

    def __init__(self) -> None:
        self._names: dict[_Key, Name | set[Name]] = {}

    def add(self, key: _Key, name: Name) -> None:
        """Put the name under the key."""
        names = self._names.setdefault(key, name)
        if isinstance(names, set):
            names.add(name)
        elif names != name:
            self._names[key] = {names, name}

    def discard(self, key: _Key, name: Name) -> None:
        """Take the name from under the key, if it is there."""
        names = self._names.get(key)
        if isinstance(names, set):
            names.discard(name)
            if len(names) == 1:
                self._names[key] = names.pop()
        elif names == name:
            del self._names[key]

    def get(self, key: _Key) -> Collection[Name]:
        """The names under the key, each once, not to be changed."""
        names = self._names.get(key, ())
        return (names,) if isinstance(names, Name) else names


class ExposureIndex:
    """Pods, open services and slices by what joins them.

    Cost: a pod's change and its services are O(its labels, addresses and services); a service's
    change is O(the pods that carry the rarest label of its selector).
    """

    def __init__(self) -> None:
        self._pods: dict[Name, _PodFacts] = {}
        self._services: dict[Name, Exposure] = {}
        self._slices: dict[Name, SliceReading] = {}
        self._pods_by_label: MultiMap[_LabelKey] = MultiMap()
        self._pods_by_address: MultiMap[_AddressKey] = MultiMap()
        self._services_by_label: MultiMap[_LabelKey] = MultiMap()
        self._slices_by_address: MultiMap[_AddressKey] = MultiMap()
        self._slices_by_service: MultiMap[Name] = MultiMap()

    def set_pod(self, pod: Name, labels: Mapping[str, str], addresses: tuple[Address, ...]) -> None:
        """A pod as it is now."""
        self._move_pod(pod, self._pods.get(pod, _NO_FACTS), _PodFacts(labels, addresses))
        self._pods[pod] = _PodFacts(labels, addresses)

    def remove_pod(self, pod: Name) -> None:
        """A pod that is no more; nothing if it never was."""
        self._move_pod(pod, self._pods.pop(pod, _NO_FACTS), _NO_FACTS)

    def _move_pod(self, pod: Name, before: _PodFacts, now: _PodFacts) -> None:
        for key, value in before.labels.items() - now.labels.items():
            self._pods_by_label.discard(_LabelKey(pod.namespace, key, value), pod)
        for key, value in now.labels.items() - before.labels.items():
            self._pods_by_label.add(_LabelKey(pod.namespace, key, value), pod)
        if before.addresses == now.addresses:
            return
        for address in before.addresses:
            self._pods_by_address.discard(_AddressKey(pod.namespace, address), pod)
        for address in now.addresses:
            self._pods_by_address.add(_AddressKey(pod.namespace, address), pod)

    def set_service(self, service: Name, exposure: Exposure | None) -> set[Name]:
        """A service as it is now, None if it exposes nothing; the pods this may concern."""
        concerned = self.pods_of(service)
        before = self._services.pop(service, None)
        if before is not None and before.selector:
            self._services_by_label.discard(_first_label(service, before.selector), service)
        if exposure is not None:
            self._services[service] = exposure
            if exposure.selector:
                self._services_by_label.add(_first_label(service, exposure.selector), service)
        return concerned ^ self.pods_of(service)

    def set_slice(self, name: Name, reading: SliceReading | None) -> set[Name]:
        """A slice as it is now, None if it is no more; the pods this may concern."""
        before = self._slices.pop(name, None)
        concerned: set[Name] = set()
        if before is not None:
            concerned |= self._pods_at(name.namespace, before.addresses)
            self._slices_by_service.discard(Name(name.namespace, before.service), name)
            for address in before.addresses:
                self._slices_by_address.discard(_AddressKey(name.namespace, address), name)
        if reading is not None:
            self._slices[name] = reading
            concerned |= self._pods_at(name.namespace, reading.addresses)
            self._slices_by_service.add(Name(name.namespace, reading.service), name)
            for address in reading.addresses:
                self._slices_by_address.add(_AddressKey(name.namespace, address), name)
        return concerned

    def services_of(self, pod: Name) -> set[Name]:
        """The open services that expose a pod."""
        facts = self._pods[pod]
        found: set[Name] = set()
        for key in _label_keys(pod, facts.labels):
            for service in self._services_by_label.get(key):
                if _selects(self._services[service], facts.labels):
                    found.add(service)
        for address in facts.addresses:
            for name in self._slices_by_address.get(_AddressKey(pod.namespace, address)):
                service = Name(pod.namespace, self._slices[name].service)
                exposure = self._services.get(service)
                if exposure is not None and not exposure.selector:
                    found.add(service)
        return found

    def pods_of(self, service: Name) -> set[Name]:
        """The pods that an open service exposes; none of any other."""
        exposure = self._services.get(service)
        if exposure is None:
            return set()
        if exposure.selector:
            candidates = min(
                (self._pods_by_label.get(key) for key in _label_keys(service, exposure.selector)),
                key=len,
            )
            return {pod for pod in candidates if _selects(exposure, self._pods[pod].labels)}
        found: set[Name] = set()
        for name in self._slices_by_service.get(service):
            found |= self._pods_at(service.namespace, self._slices[name].addresses)
        return found

    def _pods_at(self, namespace: str, addresses: Iterable[Address]) -> set[Name]:
        found: set[Name] = set()
        for address in addresses:
            found.update(self._pods_by_address.get(_AddressKey(namespace, address)))
        return found


def _selects(exposure: Exposure, labels: Mapping[str, str]) -> bool:
    """Whether a service's selector matches: every label of it must be there."""
    selector = exposure.selector or {}
    return all(labels.get(key) == value for key, value in selector.items())


def _label_keys(name: Name, labels: Mapping[str, str]) -> list[_LabelKey]:
    return [_LabelKey(name.namespace, key, value) for key, value in labels.items()]


def _first_label(service: Name, selector: Mapping[str, str]) -> _LabelKey:
    key = min(selector)
    return _LabelKey(service.namespace, key, selector[key])
