"""The examples of datasets/ and experiments/, which pytest cannot collect under the names that they install as."""

import doctest
import importlib
import pkgutil

import pytest

import lsc_snn.datasets
import lsc_snn.experiments

MODULES = [
    name
    for package in (lsc_snn.datasets, lsc_snn.experiments)
    for name in (package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples of {name} failed, printed above"
