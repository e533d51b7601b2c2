"""Two kinds of import contract that import-linter lacks, named in .importlinter.

In comes the graph of imports, out goes kept or broken, with the chain that breaks it. A package
that a contract names may be missing: the contract is written with the layers, before the code.
"""

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


def _report(check: ContractCheck) -> None:
    for line in check.metadata["broken"]:
        output.print_error(line, bold=False)


def _names() -> fields.ListField:
    return fields.ListField(subfield=fields.StringField())


def _is_or_is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


# import-linter replaces each field of a class by the parsed value on the instance: the annotation
# says what a reader of the instance gets, which is why every field ignores its assignment.


class PureContract(Contract):
    """No package of `packages` imports any of `forbidden`, directly or through others of ours."""

    type_name = "pure"

    packages: list[str] = _names()  # type: ignore[assignment]
    forbidden: list[str] = _names()  # type: ignore[assignment]

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Kept when no chain of imports leads from a pure package to a forbidden module."""
        output.verbose_print(verbose, f"Checking {len(self.packages)} packages for purity...")
        chains = [
            graph.find_shortest_chain(importer=package, imported=module, as_packages=True)
            for package in self.packages
            for module in self.forbidden
            if package in graph.modules and module in graph.modules
        ]
        broken = [" -> ".join(chain) for chain in chains if chain]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Prints each chain, from the pure module to what it must not reach."""
        _report(check)


class DoorContract(Contract):
    """Only the modules of `doors` import `libraries` themselves."""

    type_name = "door"

    libraries: list[str] = _names()  # type: ignore[assignment]
    doors: list[str] = _names()  # type: ignore[assignment]

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Kept when every direct importer of a library is a door, or lies within one."""
        output.verbose_print(verbose, f"Checking the doors to {', '.join(self.libraries)}...")
        broken = [
            f"{importer} -> {library}"
            for library in self.libraries
            if library in graph.modules
            for importer in sorted(graph.find_modules_that_directly_import(library))
            if not any(_is_or_is_in(importer, door) for door in self.doors)
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Prints each module that goes past the door."""
        _report(check)
