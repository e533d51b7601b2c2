"""Sample policies that public documents teach, written anew, with what their prose promises.

In: the YAML beside this in ``samples``.  Out: :class:`Sample` values: a sentence, the policies,
and for each port who reaches whom; the town in which all of them are tried; what the definition
says of the same questions.  What a sample does is taken from its document, and nothing of its text.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from calico_k8s.lab.plan import Place
from calico_k8s.model.addresses import Address, Version, address_version
from calico_k8s.model.names import NodeName
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import parse_service
from calico_k8s.query.reach import Party, Service, ask, find_party
from calico_k8s.sources.documents import Manifest, read_text
from calico_k8s.sources.expand import ClusterObjects, ExpandOptions, expand
from calico_k8s.translate.cluster import translate_all

FOLDER = Path(__file__).parent / "samples"
TOWN = FOLDER / "town.yaml"
OUTSIDE = (NodeName("outside"), NodeName("partner"))
"""Machines that are no pod and run none; between them nothing is asked."""

Object = dict[str, Any]  # Any: what JSON can say


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a document's sample promises, and what must come of it in the town."""

    says: str
    follows: str
    """The document and the place in it."""
    policies: tuple[Object, ...]
    reaches: dict[str, dict[str, str]]
    """For each of some ports, for each destination, who reaches it: ``everybody``, ``nobody``,
    ``everybody but stall``, ``stall store``; the destination ``others`` is every other one."""
    families: tuple[Version, ...] = (4,)
    lint: tuple[str, ...] = ()
    """The codes of what there is to be told of it."""


class Question(NamedTuple):
    """Whether one can open a connection to another; both by their short names."""

    src: str
    dst: str
    service: Service
    family: Version


def samples(collection: str) -> tuple[Sample, ...]:
    """The samples of a file."""
    text = (FOLDER / f"{collection}.yaml").read_text(encoding="utf-8")
    return msgspec.convert(yaml.safe_load(text)["samples"], tuple[Sample, ...])


def services(sample: Sample) -> tuple[Service, ...]:
    """The ports that a sample speaks of."""
    return tuple(parse_service(word) for words in sample.reaches for word in words.split())


class Town:
    """The town under some policies."""

    def __init__(self, policies: tuple[Object, ...] = ()) -> None:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": policies})
        texts = ((TOWN.read_text(encoding="utf-8"), TOWN.name), (listed, "sample.yaml"))
        readings = [read_text(*each) for each in texts]
        assert not [error for reading in readings for error in reading.errors]
        self.manifests: tuple[Manifest, ...] = tuple(m for r in readings for m in r.manifests)

    @cached_property
    def cluster(self) -> ClusterObjects:
        """Everything there is, each time with the same addresses."""
        return expand(self.manifests, ExpandOptions(families=(4, 6)))

    @cached_property
    def snapshot(self) -> Snapshot:
        """What it becomes."""
        return Snapshot.from_items(translate_all(self.cluster.objects()).items)

    @cached_property
    def places(self) -> dict[str, Place]:
        """Everybody who is asked, by the short name."""
        pods = {
            e.id.pod.rpartition("/")[2]: Place(e.id.pod) for e in self.snapshot.endpoints.values()
        }
        return pods | {name: Place(name) for name in OUTSIDE}

    def address(self, name: str, family: Version) -> Address:
        """Where somebody is."""
        if name in OUTSIDE:
            found = self.snapshot.nodes[NodeName(name)].addresses
        else:
            pod = self.places[name]
            found = next(e.addresses for e in self.snapshot.endpoints.values() if e.id.pod == pod)
        return next(each for each in found if address_version(each) == family)

    def allows(self, question: Question) -> bool:
        """What the definition says."""
        src, dst = (self._party(name, question.family) for name in question[:2])
        return ask(self.snapshot, src, dst, question.service).allowed

    def _party(self, name: str, family: Version) -> Party:
        return find_party(self.snapshot, self.address(name, family))


def promised(sample: Sample, town: Town) -> dict[Question, bool]:
    """What the sample's document says of everybody; that each reaches itself is a promise too."""
    found = {}
    for words, sources in sample.reaches.items():
        reached = {dst: who for names, who in sources.items() for dst in names.split()}
        others = reached.pop("others", None)
        assert reached.keys() <= town.places.keys(), f"nobody is called so: {reached.keys()}"
        assert others or reached.keys() == town.places.keys(), "a destination is left out"
        for dst in town.places:
            known = _sources(reached.get(dst) or others or "", town)
            for src in town.places:
                if src in OUTSIDE and dst in OUTSIDE:
                    continue
                for service, family in _asked(words, sample):
                    found[Question(src, dst, service, family)] = src in known or src == dst
    return found


def _asked(words: str, sample: Sample) -> Iterator[tuple[Service, Version]]:
    for word in words.split():
        for family in sample.families:
            yield parse_service(word), family


def _sources(words: str, town: Town) -> set[str]:
    first, *rest = words.split()
    if first == "nobody":
        assert not rest
        return set()
    named = set(rest) - {"but"} if first == "everybody" else {first, *rest}
    assert named <= town.places.keys(), f"nobody is called so: {words}"
    return town.places.keys() - named if first == "everybody" else named
