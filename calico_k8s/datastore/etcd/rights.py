"""Who may read and write what in etcd: users, their roles, and whether etcd asks at all.

In come users with what each may do; out go the changes that make etcd hold just that.  A user is
known by the common name of its certificate and has no password; its one role has its name.  Only
the reader has one, since etcd's proxies pass no certificate's name on.  Users and roles that
somebody else made stay, and root.

The etcd3 package knows neither users without a password nor etcd's own word on whether rights are
enforced, so these messages are written as in :mod:`.wire`.

Source: etcd api/etcdserverpb/rpc.proto, api/authpb/auth.proto (3.6).
"""

import secrets
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from calico_k8s.datastore.etcd.store import READER, READER_KEY
from calico_k8s.datastore.etcd.transport import TXN, Members
from calico_k8s.datastore.etcd.wire import (
    bytes_field,
    encode_key,
    encode_txn,
    fields,
    number_field,
    prefix_end,
)
from calico_k8s.datastore.location import EtcdLocation, TlsFiles
from calico_k8s.datastore.store import Put

ROOT_USER = "root"
"""The user who may do everything, by a role of the same name that etcd makes."""

_PASSWORD_BYTES = 32
_SERVICE = "/etcdserverpb.Auth/"
_READ, _READ_WRITE = 0, 2  # authpb.Permission.Type


class Grant(msgspec.Struct, frozen=True):
    """Everything below a prefix of our keys: reading it, and maybe writing it."""

    prefix: str
    can_write: bool = False


class Permission(msgspec.Struct, frozen=True):
    """What a role may do, as etcd keeps it: a range of keys, and how it may be used."""

    kind: int
    key: bytes
    end: bytes


class RightsState(NamedTuple):
    """What one call tells of all users and roles."""

    is_enforced: bool
    """Whether etcd asks who somebody is before it does what they ask."""
    revision: int
    """Another with each change of a user or role; 0: not told."""


class EtcdRights:
    """Users and roles of one etcd; for a caller who is its root, or before rights are enforced.

    Raises: StoreError, each method.
    """

    def __init__(self, location: EtcdLocation, tls: TlsFiles | None) -> None:
        self._root = location.root
        self._members = Members(location.endpoints, tls)
        self._checked: dict[str, tuple[Grant, ...]] = {}

    def state(self) -> RightsState:
        """Whether etcd asks, and which state of users and roles it has.  Cost: one call."""
        answer = self._call("AuthStatus")
        found = {number: value for number, value, _ in fields(answer, 0, len(answer))}
        return RightsState(bool(found.get(2)), found.get(3, 0))

    def enforce(self) -> None:
        """Has etcd ask from now on; :data:`ROOT_USER` may do everything.  Twice is fine."""
        if ROOT_USER not in self._names("UserList"):
            self._call("UserAdd", _without_password(ROOT_USER))
        if ROOT_USER not in self._names("RoleList"):
            self._call("RoleAdd", bytes_field(1, ROOT_USER.encode()))
        if ROOT_USER not in self._roles_of(ROOT_USER):
            self._call("UserGrantRole", _pair(ROOT_USER, ROOT_USER))
        self._call("AuthEnable")

    def bring_to(
        self, wanted: Mapping[str, tuple[Grant, ...]], is_ours: Callable[[str], bool]
    ) -> frozenset[str]:
        """Makes users and their roles as wanted, and removes the other ones that are ours.

        Every user that there is then.

        A user comes after its role is whole, and goes before its role.

        Cost: O(users) for those not seen before; two calls where nothing is new.
        """
        users, roles = self._names("UserList"), self._names("RoleList")
        kept = wanted.keys() | {ROOT_USER}
        removed = sorted(name for name in users - kept if is_ours(name))
        for name in removed:
            self._call("UserDelete", bytes_field(1, name.encode()))
        for name in sorted(name for name in roles - kept if is_ours(name)):
            self._call("RoleDelete", bytes_field(1, name.encode()))
        self._checked = {name: self._checked[name] for name in self._checked.keys() & users & roles}
        unchecked = [name for name in wanted if self._checked.get(name) != wanted[name]]
        # All roles first: each change of rights costs etcd time for each user that it has.
        for name in unchecked:
            self._bring_role(name, wanted[name], is_there=name in roles)
        for name in unchecked:
            self._bring_user(name, is_there=name in users)
            self._checked[name] = wanted[name]
        return (users | wanted.keys()) - frozenset(removed)

    def renew_reader(self, grants: tuple[Grant, ...]) -> None:
        """Gives the user who reads through proxies a new password, kept where nodes read it.

        Tokens of the old one end; watches that are open go on.
        """
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        self._bring_role(READER, grants, is_there=READER in self._names("RoleList"))
        method = "UserChangePassword" if READER in self._names("UserList") else "UserAdd"
        self._call(method, bytes_field(1, READER.encode()) + bytes_field(2, password.encode()))
        if READER not in self._roles_of(READER):
            self._call("UserGrantRole", _pair(READER, READER))
        request = encode_txn(self._root, (Put(READER_KEY, password.encode()),), ())
        self._members.ask(lambda member: member.call(TXN, request))

    def close(self) -> None:
        """Gives the connections back."""
        self._members.close()

    def _bring_role(self, name: str, grants: tuple[Grant, ...], *, is_there: bool) -> None:
        role = bytes_field(1, name.encode())
        if not is_there:
            self._call("RoleAdd", role)
        held = _permissions(self._call("RoleGet", role)) if is_there else frozenset()
        wanted = frozenset(_permission(self._root, grant) for grant in grants)
        for permission in sorted(held - wanted, key=lambda each: each.key):
            self._call(
                "RoleRevokePermission",
                role + bytes_field(2, permission.key) + bytes_field(3, permission.end),
            )
        for permission in sorted(wanted - held, key=lambda each: each.key):
            self._call("RoleGrantPermission", role + bytes_field(2, _encode(permission)))

    def _bring_user(self, name: str, *, is_there: bool) -> None:
        if not is_there:
            self._call("UserAdd", _without_password(name))
        roles = self._roles_of(name) if is_there else frozenset()
        for role in sorted(roles - {name}):
            self._call("UserRevokeRole", _pair(name, role))
        if name not in roles:
            self._call("UserGrantRole", _pair(name, name))

    def _roles_of(self, user: str) -> frozenset[str]:
        return _strings(self._call("UserGet", bytes_field(1, user.encode())))

    def _names(self, method: str) -> frozenset[str]:
        return _strings(self._call(method))

    def _call(self, method: str, request: bytes = b"") -> bytes:
        return self._members.ask(lambda member: member.call(f"{_SERVICE}{method}", request))


def _without_password(name: str) -> bytes:
    """AuthUserAddRequest: only a certificate proves who this user is."""
    return bytes_field(1, name.encode()) + bytes_field(3, number_field(1, 1))


def _pair(first: str, second: str) -> bytes:
    """A user and a role: AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest."""
    return bytes_field(1, first.encode()) + bytes_field(2, second.encode())


def _permission(root: str, grant: Grant) -> Permission:
    key = encode_key(root, grant.prefix)
    return Permission(_READ_WRITE if grant.can_write else _READ, key, prefix_end(key))


def _encode(permission: Permission) -> bytes:
    """authpb.Permission."""
    parts = number_field(1, permission.kind) + bytes_field(2, permission.key)
    return parts + bytes_field(3, permission.end)


def _permissions(answer: bytes) -> frozenset[Permission]:
    """AuthRoleGetResponse: its permissions."""
    return frozenset(
        _decode(answer, start, end)
        for number, start, end in fields(answer, 0, len(answer))
        if number == 2
    )


def _decode(answer: bytes, start: int, end: int) -> Permission:
    kind, parts = _READ, {2: b"", 3: b""}
    for number, at, stop in fields(answer, start, end):
        if number == 1:
            kind = at
        elif number in parts:
            parts[number] = answer[at:stop]
    return Permission(kind, parts[2], parts[3])


def _strings(answer: bytes) -> frozenset[str]:
    """What field 2 of AuthUserListResponse, AuthRoleListResponse and AuthUserGetResponse lists."""
    return frozenset(
        answer[start:end].decode()
        for number, start, end in fields(answer, 0, len(answer))
        if number == 2
    )
