"""benchmarks/mutants.toml: each mutation can still be made in the package as it is."""

from __future__ import annotations

from scripts import imported


def test_the_text_of_each_mutation_and_its_tests_are_there() -> None:
    assert len(imported("mutants").read_table(only=())) > 200
