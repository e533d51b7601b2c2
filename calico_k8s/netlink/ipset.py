"""The ipset protocol: create, list, swap and destroy sets; add and delete members in batches.

In: :class:`~calico_k8s.render.tables.KernelIpset` and members.  Out: what the kernel holds, or
an error that says which set and which member.  What should be there is not known here.

Source: ``linux/netfilter/ipset/ip_set.h``, ``net/netfilter/ipset/ip_set_core.c``.
"""

import errno
import os
from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, get_args

import msgspec

from calico_k8s.errors import NetlinkError
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.members import FAMILIES, pack_member, unpack_member
from calico_k8s.netlink.socket import BATCH_MESSAGES, NETLINK_NETFILTER, NetlinkSocket
from calico_k8s.netlink.wire import (
    BE16,
    BE32,
    NLA_F_NET_BYTEORDER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    U32,
    Request,
    attribute,
    attribute_map,
    attribute_text,
    nested,
    netfilter_request,
    split_attributes,
    text_attribute,
)
from calico_k8s.render.tables import IpsetName, IpsetType, KernelIpset, KernelMember

NFNL_SUBSYS_IPSET = 6
IPSET_PROTOCOL = 6
IPSET_PROTOCOL_BYNAME = 7  # Linux 5.1: adds only GET_BYNAME and GET_BYINDEX

CMD_CREATE, CMD_DESTROY, CMD_SWAP, CMD_LIST, CMD_ADD, CMD_DEL, CMD_TEST, CMD_TYPE, CMD_GET_BYNAME = (
    2, 3, 6, 7, 9, 10, 11, 13, 14,
)  # fmt: skip
ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY = 1, 2, 3, 4, 5
ATTR_FLAGS, ATTR_DATA, ATTR_ADT, ATTR_LINENO, ATTR_INDEX = 6, 7, 8, 9, 11
ATTR_SETNAME2 = 3
ATTR_CADT_FLAGS, ATTR_HASHSIZE, ATTR_MAXELEM, ATTR_REFERENCES = 8, 18, 19, 25
FLAG_LIST_HEADER = 1 << 2
FLAG_WITH_SKBINFO = 1 << 6

IPSET_ERR_PRIVATE = 4096
IPSET_ERR_FIND_TYPE = 4098
IPSET_ERR_BUSY = 4100
IPSET_ERR_EXIST = 4103
IPSET_ERR_REFERENCED = 4108
IPSET_ERR_HASH_FULL = 4352
IPSET_ERR_HASH_ELEM = 4353

_ERROR_TEXTS: Final = {
    IPSET_ERR_FIND_TYPE: "set type not supported by this kernel",
    4099: "too many sets",
    IPSET_ERR_BUSY: "in use by a rule or another set",
    4102: "the sets differ in type",
    IPSET_ERR_EXIST: "already there, or not there to delete",
    4104: "invalid prefix length",
    4106: "wrong family",
    IPSET_ERR_REFERENCED: "in use by a rule or another set",
    4115: "the set was made without skbinfo",
    IPSET_ERR_HASH_FULL: "the set is full",
    IPSET_ERR_HASH_ELEM: "the element cannot be held",
}

DEFAULT_MAXELEM = 1_048_576
DEFAULT_HASHSIZE = 1024
MEMBERS_A_MESSAGE = 300
"""Members in one message: measured 49-66 ms for 10,000, and far below an attribute's 64 KiB."""


class MemberCommand(IntEnum):
    """What an :class:`Edit` does with its members."""

    ADD = CMD_ADD
    DELETE = CMD_DEL


class Edit(NamedTuple):
    """Members to add to or delete from one set; adding one that is there updates its mark."""

    ipset: KernelIpset
    command: MemberCommand
    members: Sequence[KernelMember]


class EditFailure(NamedTuple):
    """A member the kernel did not take."""

    ipset: IpsetName
    command: MemberCommand
    member: KernelMember
    errno: int


class IpsetHeader(msgspec.Struct, frozen=True):
    """A set the kernel holds, of whatever owner and type."""

    name: IpsetName
    type: str
    version: Version | None
    """None: the type has no family (``list:set``, ``bitmap:port``)."""
    maxelem: int
    references: int
    """Rules, targets and ``list:set`` members that keep it from being destroyed."""
    has_marks: bool

    def holds(self, ipset: KernelIpset) -> bool:
        """Whether its members can be those of ``ipset``."""
        return (self.type, self.version, self.has_marks) == (
            ipset.type,
            ipset.version,
            ipset.has_marks,
        )


class IpsetSocket:
    """The sets of one network namespace, through one socket that lives as long as this does.

    Raises:
        NetlinkError: from every method; ``errno`` may be an ``IPSET_ERR_*``.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)
        self._revisions: dict[tuple[str, Version], int] = {}

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def create(
        self,
        ipset: KernelIpset,
        maxelem: int = DEFAULT_MAXELEM,
        hashsize: int = DEFAULT_HASHSIZE,
    ) -> None:
        """Make an empty set; one of that name must not exist."""
        options = _be32(ATTR_HASHSIZE, hashsize) + _be32(ATTR_MAXELEM, maxelem)
        if ipset.has_marks:
            options += _be32(ATTR_CADT_FLAGS, FLAG_WITH_SKBINFO)
        request = _request(
            CMD_CREATE,
            text_attribute(ATTR_SETNAME, ipset.name),
            text_attribute(ATTR_TYPENAME, ipset.type),
            # The kernel takes a create with revision 0 and `ipset list` then fails: ask.
            attribute(ATTR_REVISION, bytes((self._revision(ipset.type, ipset.version),))),
            attribute(ATTR_FAMILY, bytes((FAMILIES[ipset.version],))),
            nested(ATTR_DATA, options),
            flags=NLM_F_CREATE | NLM_F_EXCL,
            family=FAMILIES[ipset.version],
        )
        self._do(request, f"ipset create {ipset.name} {ipset.type}")

    def has_type(self, kind: IpsetType, version: Version) -> bool:
        """Whether this kernel was built with the set type (``hash:net,net`` often is missing)."""
        try:
            self._revision(kind, version)
        except NetlinkError as error:
            if error.errno == IPSET_ERR_FIND_TYPE:
                return False
            raise
        return True

    def destroy(self, names: Iterable[IpsetName]) -> dict[IpsetName, int]:
        """Destroy each set; the errno of each that stayed (``IPSET_ERR_BUSY``: still referenced).

        A set that is not there counts as destroyed.
        """
        ordered = list(names)
        requests = [_request(CMD_DESTROY, text_attribute(ATTR_SETNAME, name)) for name in ordered]
        codes = self._socket.batch(requests)
        return {
            name: code
            for name, code in zip(ordered, codes, strict=True)
            if code not in (0, errno.ENOENT)
        }

    def swap(self, first: IpsetName, second: IpsetName) -> None:
        """Exchange the contents of two sets of one type, atomically for every rule."""
        request = _request(
            CMD_SWAP, text_attribute(ATTR_SETNAME, first), text_attribute(ATTR_SETNAME2, second)
        )
        self._do(request, f"ipset swap {first} {second}")

    def edit(self, edits: Sequence[Edit]) -> list[EditFailure]:
        """Add and delete members, in order; the members the kernel did not take.

        A member already there (or already gone) is no failure.  Cost: 5 us a member.

        Raises:
            InputError: a member's text is not one of its set's type; nothing was sent.
            NetlinkError: an answer was lost; read the sets back.
        """
        chunks = [
            Edit(edit.ipset, edit.command, edit.members[start : start + MEMBERS_A_MESSAGE])
            for edit in edits
            for start in range(0, len(edit.members), MEMBERS_A_MESSAGE)
        ]
        codes = self._socket.batch([_edit_request(chunk) for chunk in chunks])
        failures: list[EditFailure] = []
        for chunk, code in zip(chunks, codes, strict=True):
            if code:
                failures += self._edit_singly(chunk)
        return failures

    def _edit_singly(self, chunk: Edit) -> list[EditFailure]:
        """The kernel stops at the first member it refuses: try each, to do the rest and name them."""
        requests = [_edit_request(Edit(chunk.ipset, chunk.command, [m])) for m in chunk.members]
        codes = self._socket.batch(requests)
        return [
            EditFailure(chunk.ipset.name, chunk.command, member, code)
            for member, code in zip(chunk.members, codes, strict=True)
            if code
        ]

    def test(self, ipset: KernelIpset, member: KernelMember) -> bool:
        """Whether a packet with this key would match (a ``hash:net`` is asked by address)."""
        data = pack_member(member, ipset.type, ipset.version)
        request = _request(
            CMD_TEST,
            text_attribute(ATTR_SETNAME, ipset.name),
            nested(ATTR_DATA, data),
            family=FAMILIES[ipset.version],
        )
        try:
            self._do(request, f"ipset test {ipset.name} {member.text}")
        except NetlinkError as error:
            if error.errno == IPSET_ERR_EXIST:
                return False
            raise
        return True

    def headers(self) -> dict[IpsetName, IpsetHeader]:
        """Every set of the namespace, without members."""
        request = _request(CMD_LIST, _be32(ATTR_FLAGS, FLAG_LIST_HEADER))
        headers: dict[IpsetName, IpsetHeader] = {}
        for message in self._socket.dump(request, "ipset list"):
            attributes = attribute_map(message.body[4:])
            if ATTR_DATA in attributes:
                header = _unpack_header(attributes)
                headers[header.name] = header
        return headers

    def indexes(self, names: Collection[str]) -> dict[str, int]:
        """By name, the number of each set, by which rules of iptables ask it while it is there.

        One that is made anew has another.

        Raises:
            NetlinkError: there is no such set, or the kernel is older than 5.1.
        """
        ordered = sorted(names)
        requests = [
            _request(
                CMD_GET_BYNAME, text_attribute(ATTR_SETNAME, name), protocol=IPSET_PROTOCOL_BYNAME
            )
            for name in ordered
        ]
        found: list[int] = []
        for start in range(0, len(requests), BATCH_MESSAGES):
            codes, answers = self._socket.exchange(requests[start : start + BATCH_MESSAGES])
            for name, code in zip(ordered[start:], codes, strict=False):
                if code:
                    raise ipset_error(f"ipset number of {name}", code)
            found += [
                BE16.unpack(attribute_map(memoryview(answer)[4:])[ATTR_INDEX])[0]
                for answer in answers
            ]
        return dict(zip(ordered, found, strict=True))

    def members(self, ipset: KernelIpset) -> list[KernelMember]:
        """What one set holds, in no order.  Cost: some 6 us a member."""
        request = _request(CMD_LIST, text_attribute(ATTR_SETNAME, ipset.name))
        members: list[KernelMember] = []
        for message in self._socket.dump(request, f"ipset list {ipset.name}"):
            listed = attribute_map(message.body[4:]).get(ATTR_ADT)
            if listed is not None:
                members += [
                    unpack_member(data, ipset.type, ipset.version)
                    for _, data in split_attributes(listed)
                ]
        return members

    def _revision(self, kind: IpsetType, version: Version) -> int:
        known = self._revisions.get((kind, version))
        if known is not None:
            return known
        request = _request(
            CMD_TYPE,
            text_attribute(ATTR_TYPENAME, kind),
            attribute(ATTR_FAMILY, bytes((FAMILIES[version],))),
            family=FAMILIES[version],
        )
        for answer in self._do(request, f"ipset type {kind}"):
            attributes = attribute_map(memoryview(answer)[4:])
            if ATTR_REVISION in attributes:
                self._revisions[kind, version] = attributes[ATTR_REVISION][0]
                return attributes[ATTR_REVISION][0]
        raise NetlinkError(f"ipset type {kind}: the kernel gave no revision", errno.EPROTO)

    def _do(self, request: Request, what: str) -> list[bytes]:
        (code,), answers = self._socket.exchange([request])
        if code:
            raise ipset_error(what, code)
        return answers


IPSET_TYPES: Final[tuple[IpsetType, ...]] = get_args(IpsetType)


def ipset_error(what: str, code: int) -> NetlinkError:
    """The error for an errno or ``IPSET_ERR_*``; ``what`` is the deed."""
    text = _ERROR_TEXTS.get(
        code, f"ipset error {code}" if code >= IPSET_ERR_PRIVATE else os.strerror(code)
    )
    return NetlinkError(f"{what}: {text}", code)


def _request(
    command: int,
    *parts: bytes,
    flags: int = 0,
    family: int = 0,
    protocol: int = IPSET_PROTOCOL,
) -> Request:
    body = attribute(ATTR_PROTOCOL, bytes((protocol,))) + b"".join(parts)
    return netfilter_request(NFNL_SUBSYS_IPSET, command, flags, family, body)


def _edit_request(edit: Edit) -> Request:
    ipset, command, members = edit
    elements = [
        nested(ATTR_DATA, pack_member(member, ipset.type, ipset.version)) for member in members
    ]
    return _request(
        command,
        text_attribute(ATTR_SETNAME, ipset.name),
        attribute(ATTR_LINENO, U32.pack(0)),
        nested(ATTR_ADT, *elements),
        family=FAMILIES[ipset.version],
    )


def _be32(kind: int, number: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, BE32.pack(number))


def _unpack_header(attributes: dict[int, memoryview]) -> IpsetHeader:
    options = attribute_map(attributes[ATTR_DATA])
    family = attributes[ATTR_FAMILY][0] if ATTR_FAMILY in attributes else 0
    version: Version | None = None
    if family == FAMILIES[4]:
        version = 4
    elif family == FAMILIES[6]:
        version = 6
    return IpsetHeader(
        name=IpsetName(attribute_text(attributes[ATTR_SETNAME])),
        type=attribute_text(attributes[ATTR_TYPENAME]),
        version=version,
        maxelem=_number(options, ATTR_MAXELEM),
        references=_number(options, ATTR_REFERENCES),
        has_marks=bool(_number(options, ATTR_CADT_FLAGS) & FLAG_WITH_SKBINFO),
    )


def _number(attributes: dict[int, memoryview], kind: int) -> int:
    data = attributes.get(kind)
    return BE32.unpack(data)[0] if data else 0
