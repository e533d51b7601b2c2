"""The contract types of tests/contracts.py, on small graphs of imports."""

import pytest
from grimp import ImportGraph

from tests.contracts import DoorContract, PureContract


def graph_of(*imports: str) -> ImportGraph:
    graph = ImportGraph()
    for line in imports:
        importer, imported = line.split(" -> ")
        for module in (importer, imported):
            parts = module.split(".")
            for depth in range(1, len(parts) + 1):
                graph.add_module(".".join(parts[:depth]))
        graph.add_import(importer=importer, imported=imported)
    return graph


def pure(*, packages: list[str], forbidden: list[str]) -> PureContract:
    return PureContract(
        name="pure",
        session_options={},
        contract_options={"packages": packages, "forbidden": forbidden},
    )


def door(*, libraries: list[str], doors: list[str]) -> DoorContract:
    return DoorContract(
        name="door", session_options={}, contract_options={"libraries": libraries, "doors": doors}
    )


@pytest.mark.parametrize(
    ("imports", "broken"),
    [
        (["app.calc.graph -> app.model"], []),
        (["app.calc.graph -> os"], ["app.calc.graph -> os"]),
        (["app.calc -> app.model", "app.model -> os"], ["app.calc -> app.model -> os"]),
        (["app.cli -> os", "app.cli -> app.calc"], []),
        (["app.calculator -> os", "app.calc -> app.model"], []),
    ],
)
def test_a_pure_package_reaches_nothing_forbidden(imports: list[str], broken: list[str]) -> None:
    contract = pure(packages=["app.calc", "app.not_written_yet"], forbidden=["os", "time"])
    check = contract.check(graph_of(*imports), verbose=False)
    assert check.metadata["broken"] == broken
    assert check.kept is not bool(broken)


@pytest.mark.parametrize(
    ("imports", "broken"),
    [
        (["app.store.etcd -> etcd3"], []),
        (["app.store.etcd.watch -> etcd3"], []),
        (["app.store.etcdish -> etcd3"], ["app.store.etcdish -> etcd3"]),
        (["app.cli -> app.store.etcd", "app.store.etcd -> etcd3"], []),
    ],
)
def test_only_the_door_imports_the_library(imports: list[str], broken: list[str]) -> None:
    contract = door(libraries=["etcd3", "grpc"], doors=["app.store.etcd"])
    check = contract.check(graph_of(*imports), verbose=False)
    assert check.metadata["broken"] == broken
    assert check.kept is not bool(broken)
