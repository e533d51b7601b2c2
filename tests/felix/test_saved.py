"""The state on disk: whole or not at all, and only for another boot."""

from pathlib import Path

import msgspec
import pytest

from calico_k8s.felix.saved import (
    FORMAT,
    SavedState,
    StateFile,
    current_boot,
    load_state,
    save_state,
)
from calico_k8s.render.tables import (
    ChainName,
    IpsetName,
    KernelIpset,
    KernelMember,
    RuleText,
    Table,
)

NAME = IpsetName("cali4-dst")
STATE = SavedState(
    format=FORMAT,
    boot_id="another boot",
    backend="nft",
    tables=(
        Table(
            "mangle",
            4,
            {ChainName("cali-FORWARD"): (RuleText("-j DROP"),)},
            first={"FORWARD": (RuleText("-j cali-FORWARD"),)},
        ),
    ),
    ipsets=(KernelIpset(NAME, "hash:ip", 4, has_marks=True),),
    members={NAME: (KernelMember("10.0.0.1", 8, 12), KernelMember("10.0.0.2", nomatch=True))},
)


def test_what_was_saved_by_another_boot_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "felix.state"
    save_state(path, STATE)
    assert load_state(path) == STATE
    assert path.parent.stat().st_mode & 0o077 == 0, "addresses and policy are nobody else's"


@pytest.mark.parametrize(
    "state",
    [
        msgspec.structs.replace(STATE, boot_id=current_boot()),
        msgspec.structs.replace(STATE, format=FORMAT + 1),
    ],
    ids=["of this boot", "of another format"],
)
def test_a_state_that_is_not_to_be_used_is_not_loaded(tmp_path: Path, state: SavedState) -> None:
    save_state(tmp_path / "felix.state", state)
    assert load_state(tmp_path / "felix.state") is None


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"{}", msgspec.msgpack.encode({"format": 1})]
)
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "felix.state"
    path.write_bytes(content)
    assert load_state(path) is None
    assert load_state(tmp_path / "missing") is None
    assert load_state(tmp_path) is None, "a folder"


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "felix.state"
    save_state(path, STATE)
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match="directory"):
        save_state(tmp_path / "target", STATE)
    assert {path.name for path in tmp_path.iterdir()} == {"felix.state", "target"}
    assert load_state(path) == STATE


def test_the_file_is_written_beside_the_loop_and_whole_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "felix.state"
    file = StateFile(path)
    for number in range(5):
        file.save(msgspec.structs.replace(STATE, boot_id=str(number)))
    file.close()
    loaded = load_state(path)
    assert loaded is not None
    assert loaded.boot_id == "4"


def test_a_disk_that_refuses_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "felix.state").mkdir()
    file = StateFile(tmp_path / "felix.state")
    file.save(STATE)
    file.close()
