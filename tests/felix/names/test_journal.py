"""The file of names: what was noted is there after any end, and what cannot be read is passed over."""

from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.felix.names import journal as module
from calico_k8s.felix.names.book import NameRecord
from calico_k8s.felix.names.journal import Journal, load_names
from calico_k8s.model.addresses import Address
from calico_k8s.model.domains import DomainName

A, B = DomainName("a.test"), DomainName("b.test")
ONE, TWO = Address("198.51.100.1"), Address("2001:db8::2")


def test_what_was_noted_last_is_loaded_whoever_dies(tmp_path: Path) -> None:
    path = tmp_path / "state" / "felix.names"
    records = {A: NameRecord(A, {ONE: 100.5}), B: NameRecord(B, {TWO: 1.0}, [ONE])}
    journal = Journal(path)
    assert journal.load() == []
    journal.note(records, [A, B])
    records[A] = NameRecord(A, {ONE: 200.0, TWO: 3.0})
    journal.note(records, [A])
    assert load_names(path) == [records[B], records[A]]  # nobody has closed it
    del records[B]
    journal.note(records, [B])
    journal.close()
    assert load_names(path) == [records[A]]


def test_a_name_that_lasts_longer_is_written_anew_and_not_for_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "felix.names"
    with closing(Journal(path)) as journal:
        journal.note({A: NameRecord(A, {ONE: 100.0})}, [A])
        for last_s, kept_s in ((104.0, 100.0), (106.0, 106.0), (110.0, 106.0), (200.0, 200.0)):
            journal.refresh({A: NameRecord(A, {ONE: last_s})}, [A, B])
            assert load_names(path) == [NameRecord(A, {ONE: kept_s})]


def test_a_line_that_is_not_whole_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "felix.names"
    with closing(Journal(path)) as journal:
        journal.note({A: NameRecord(A, {ONE: 1.0})}, [A])
    whole = path.read_bytes()
    path.write_bytes(b"\xff\n[]\n" + whole + whole.replace(b"a.test", b"b.test")[:-9])
    assert load_names(path) == [NameRecord(A, {ONE: 1.0})]
    with closing(Journal(path)) as journal:  # and is not appended to
        journal.note({A: NameRecord(A, {TWO: 1.0})}, [A])
    assert load_names(path) == [NameRecord(A, {TWO: 1.0})]


def test_a_file_of_many_lines_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINES_MAX", 10)
    path = tmp_path / "felix.names"
    with closing(Journal(path)) as journal:
        for turn in range(100):
            journal.note({A: NameRecord(A, {ONE: float(turn)})}, [A])
            assert len(path.read_bytes().splitlines()) <= 12
    assert load_names(path) == [NameRecord(A, {ONE: 99.0})]


def test_a_file_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with closing(Journal(tmp_path / "file" / "felix.names")) as journal:
        journal.note({A: NameRecord(A, {ONE: 1.0})}, [A])
        assert journal.load() == []
