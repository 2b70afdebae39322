"""Models as NIR graphs, and graphs as models: the Neuromorphic Intermediate Representation and its meaning, in steps.

Needs the package ``nir``; ``import lsc_snn`` alone does not import this one.
"""

try:
    import nir  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("lsc_snn.nir: expected the package nir, got none; pip install 'lsc-snn[nir]'") from error

from lsc_snn.nir.export import to_nir
from lsc_snn.nir.graphs import check_graph, read_graph, write_graph
from lsc_snn.nir.interpret import interpret
from lsc_snn.nir.restore import from_nir

__all__ = ["check_graph", "from_nir", "interpret", "read_graph", "to_nir", "write_graph"]
