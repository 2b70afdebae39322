"""Models as NIR graphs, and graphs as models: the Neuromorphic Intermediate Representation and its meaning, in steps.

    to_nir, from_nir          a model to a graph (export*.py, compose.py) and back (restore*.py, units.py, synaptic.py)
    read_graph, write_graph   a file to a graph and back, and check_graph, which both call (graphs.py, _hdf5.py)
    interpret                 what a graph computes (interpret.py): what its nodes mean (_nodes.py), in which order
                              (_order.py)

Exact, to the last spike, and checked against the interpreter at every export: LIF with any reset, ALIF and LSNN (the
reset of an adaptive neuron to 2^-32 of beta), LI, the neurons of snnTorch and Norse that NIR can say, and linear,
convolutional and pooling layers, with dropout left out and BatchNorm folded in. Refused, by name: LRU, S5, gates,
refractory periods, a hard reset at a threshold that moves. Approximated, only where ``approximate=True`` says so: soft
resets and adaptation as plain LIF nodes, and that graph is not checked.

Which reset: a LIF node resets to ``v_reset``, to 0 from us, so ``reset="hard"`` becomes one, and simulators that know
LIF nodes run it. A soft reset, ours and snnTorch's default, becomes a subgraph of LI, Threshold and Scale with edges
back, which only an interpreter of all nodes runs. nir before 1.0.6 has no ``v_reset`` in files: ``write_graph`` keeps
it in the metadata, and ``from_nir`` asks for ``reset=`` where a file does not say.

Which dt: NIR has time constants in seconds, layers have decays per step. ``dt`` joins them, tau = dt / (1 - alpha), so
that Euler's rule with the same dt gives alpha back; another dt is another network. snnTorch's importer takes 1e-4,
Norse's 1e-3, and 8 ms bins, say, need not be 8e-3: any dt gives the same spikes as long as the importer has it too.

    >>> import torch
    >>> from lsc_snn import Network, NetworkConfig
    >>> model = Network(NetworkConfig(20, 3, num_layers=2, num_units=8, neuron="LIF", layer={"reset": "hard"}), seed=0)
    >>> spikes = (torch.rand(50, 4, 20, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    >>> graph = to_nir(model, dt=1e-4, sample=spikes)
    >>> potentials = interpret(graph, spikes.numpy(), dt=1e-4).outputs["output"]
    >>> bool(abs(model(spikes).detach().numpy() - potentials).max() < 1e-4)
    True
    >>> torch.allclose(from_nir(graph, dt=1e-4)(spikes), model(spikes), atol=1e-4)
    True

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
