"""Adapters of snnTorch 1.x: its neurons, called once a step, and its modules over whole sequences.

A step is the neuron's own forward, so that snnTorch's code computes, resets and quantisation included. Two of its
habits show in the radii. The reset passes no gradient, except with ``reset_delay=False``: the time radius of Leaky is
beta, that of Synaptic the larger of alpha and beta. And ``SLSTM`` (1.0) clears its state at every step unless hidden
and input size are the same: its time radius is then 0.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import snntorch as snn
import torch
from torch import Tensor, nn

from lsc_snn.adapters.base import Pass, SequenceAdapter, StepAdapter, register_adapter
from lsc_snn.grid import Memory, Points, Step
from lsc_snn.knobs import Knob, Knobs, changed, multiplied, together
from lsc_snn.recording import undisturbed

DECAY_MIN, DECAY_MAX = 1e-12, 1 - 1e-4
"""Bounds of the decay per step that a knob gives: from 0 none would come back, at 1 snnTorch's clamp would stop it."""


class NeuronAdapter(StepAdapter):
    """A neuron called once a step, with its states passed in the loop or kept inside.

    ``states`` are the names of its states, as arguments of its forward and as its attributes; ``decays`` those of the
    decays that move its time radius. Knobs: learnable decays (upwards the slowest alone) and recurrent weights move the
    time radius together, a learnable threshold the rate, and the module in front the depth radius.
    """

    spiking = True

    def __init__(self, *states: str, decays: tuple[str, ...] = ()) -> None:
        self._states, self._decays = states, decays

    def unpack(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Memory]:
        """Return the input and the states, given or kept inside; zeros where their shape is another, as in forward."""
        given = _arguments(module, args, kwargs)
        arrived = given.pop("input_")
        if module.init_hidden and any(state is not None for state in given.values()):
            module.forward(*args, **kwargs)  # raises its own error
        states = [getattr(module, name) if given.get(name) is None else given[name] for name in self._states]
        shape = self.state_shape(module, arrived)
        return arrived, tuple(state if state.shape == shape else arrived.new_zeros(shape) for state in states)

    def state_shape(self, module: Any, arrived: Tensor) -> tuple[int, ...]:
        """Return the shape of every state for an input."""
        return tuple(arrived.shape)

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Run the neuron's forward."""
        if module.init_hidden:
            self._keep(module, memory)
            returned = module.forward(arrived)
        else:
            returned = module.forward(arrived, *memory)
        output = returned if isinstance(returned, Tensor) else returned[0]
        return output, tuple(getattr(module, name) for name in self._states)

    def pack(self, module: Any, output: Tensor, memory: Memory) -> Any:
        """Keep the states inside, and return the spikes, with the states where forward returns those."""
        self._keep(module, tuple(state.clone() for state in memory))  # detach_hidden() detaches them in place
        if module.init_hidden and not module.output:
            return output
        return output, *(state for name, state in zip(self._states, memory, strict=True) if name != "spk")

    def _keep(self, module: Any, memory: Memory) -> None:
        for name, state in zip(self._states, memory, strict=True):
            setattr(module, name, state)

    def knobs(self, module: Any) -> Knobs:
        """Return the knobs of the neuron."""
        threshold = multiplied([_parameter(module, "threshold")])
        return Knobs(self.depth_knob(module), self.time_knob(module), threshold)

    def depth_knob(self, module: Any) -> Knob | None:
        """Return what moves the depth radius."""
        return None

    def time_knob(self, module: Any) -> Knob | None:
        """Return what moves the time radius."""
        recurrent = getattr(module, "recurrent", None)
        found = [_parameter(module, name) for name in self._decays]
        decays = sorted((decay for decay in found if decay is not None), key=_learnable_and_slow)
        slowest = _decays(decays[-1:], _bounded, lambda decay: decay)
        others = [_kept_decay(decay) for decay in decays[:-1]]
        return together(multiplied([_parameter(recurrent, "weight"), _parameter(recurrent, "V")]), slowest, *others)


class SLSTMAdapter(NeuronAdapter):
    """The spiking LSTM, whose gates are ordered input, forget, cell, output.

    Knobs: the input weights of all gates but the forget gate move the depth radius; recurrent weights and the bias of
    the forget gate move the time radius. Larger input weights there would saturate it, and the time radius with it.
    """

    def state_shape(self, module: Any, arrived: Tensor) -> tuple[int, ...]:  # noqa: D102
        return len(arrived), module.hidden_size

    def depth_knob(self, module: Any) -> Knob | None:  # noqa: D102
        return _gates_but_forget(module.lstm_cell.weight_ih, module.hidden_size, slice(None))

    def time_knob(self, module: Any) -> Knob | None:  # noqa: D102
        cell, size = module.lstm_cell, module.hidden_size
        if module.input_size != size:
            return None  # snnTorch clears the state at every step
        return together(multiplied([cell.weight_hh]), _forget_gates([cell.bias_hh, cell.bias_ih], size))


class SConv2dLSTMAdapter(NeuronAdapter):
    """The convolutional spiking LSTM, with the knobs of ``SLSTMAdapter``.

    It is one convolution, over the channels of the input and then those of the memory.
    """

    def state_shape(self, module: Any, arrived: Tensor) -> tuple[int, ...]:  # noqa: D102
        return len(arrived), module.out_channels, *arrived.shape[2:]

    def depth_knob(self, module: Any) -> Knob | None:  # noqa: D102
        return _gates_but_forget(module.conv.weight, module.out_channels, slice(0, module.in_channels))

    def time_knob(self, module: Any) -> Knob | None:  # noqa: D102
        recurrent = _scaled(module.conv.weight, (slice(None), slice(module.in_channels, None)))
        return together(recurrent, _forget_gates([module.conv.bias], module.out_channels))


class FilterAdapter(SequenceAdapter):
    """A module that runs the whole sequence (T, B, ...) at once, without reset, from a memory (B, N) of zeros."""

    spiking = True

    @abstractmethod
    def memories(self, module: Any, inputs: Tensor) -> Tensor:
        """Return the memory after every step, (T, B, N)."""

    @abstractmethod
    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Do one time step."""

    def returned(self, module: Any, output: Tensor, memories: Tensor) -> Any:
        """Return what the module's forward returns: here the output."""
        return output

    def run(self, module: Any, *args: Any, **kwargs: Any) -> Pass:
        """Run the module once."""
        (inputs,) = _arguments(module, args, kwargs).values()
        memories, returned = self.memories(module, inputs), module.forward(inputs)
        before = torch.cat([torch.zeros_like(memories[:1]), memories[:-1]]).detach()

        def step(arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
            with undisturbed(module):
                return self.step(module, arrived, memory)

        def at(points: Points) -> tuple[Step, Memory]:
            return step, (points.take(before),)

        output = returned if isinstance(returned, Tensor) else returned[0]
        return Pass(inputs, output, lambda replaced: self.returned(module, replaced, memories), at)

    def unroll(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, list[Memory]]:
        """Loop over the step."""
        (inputs,) = _arguments(module, args, kwargs).values()
        # From a leaf: else fixed parameters would leave the memories without a graph.
        memory: Memory = (torch.zeros_like(self.memories(module, inputs)[0]).requires_grad_(),)
        outputs, after = [], []
        for arrived in inputs.unbind(0):
            output, memory = self.step(module, arrived, memory)
            outputs.append(output)
            after.append(memory)
        return self.returned(module, torch.stack(outputs), torch.stack([now for (now,) in after])), after


class StateLeakyAdapter(FilterAdapter):
    """StateLeaky and LinearLeaky: a causal convolution with exp(-t / tau), whose first two taps make one step.

    Knobs: a learnable tau moves the time radius exp(-1 / tau); the weights of LinearLeaky move the depth radius.
    """

    def spikes(self, module: Any) -> bool:  # noqa: D102
        return bool(module.output)

    def memories(self, module: Any, inputs: Tensor) -> Tensor:  # noqa: D102
        taps = module.kernel_truncation_steps
        if taps is not None and taps < len(inputs):
            raise ValueError(
                f"{type(module).__name__}: expected a kernel_truncation_steps of None or at least the {len(inputs)} "
                f"steps of the input, got {taps}; a kernel that ends has no step from memory to memory"
            )
        return self._convolved(module, self._current(module, inputs))

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:  # noqa: D102
        after = self._convolved(module, torch.stack([memory[0], self._current(module, arrived)]))[1]
        shown = self._shown(module, after)
        return (module.fire(shown) * module.graded_spikes_factor if module.output else shown), (after,)

    def returned(self, module: Any, output: Tensor, memories: Tensor) -> Any:  # noqa: D102
        return (output, self._shown(module, memories)) if module.output else output

    def _current(self, module: Any, inputs: Tensor) -> Tensor:
        current: Tensor = module.linear(inputs) if isinstance(module, snn.LinearLeaky) else inputs
        return current

    def _convolved(self, module: Any, current: Tensor) -> Tensor:
        memories: Tensor = module._base_state_function(current)
        return memories

    def _shown(self, module: Any, memories: Tensor) -> Tensor:
        shown: Tensor = module.state_quant(memories) if module.state_quant else memories
        return shown

    def knobs(self, module: Any) -> Knobs:  # noqa: D102
        linear = getattr(module, "linear", None)
        time = _decays([_parameter(module, "tau")], lambda tau: torch.exp(-1 / tau), lambda d: -1 / torch.log(d))
        depth = multiplied([_parameter(linear, "weight"), _parameter(linear, "bias")])
        return Knobs(depth, time, multiplied([_parameter(module, "threshold")]))


class LeakyParallelAdapter(FilterAdapter):
    """LeakyParallel: a ReLU RNN, by default with a diagonal recurrent matrix, and the spikes of its state.

    Knobs: input weights and biases move the depth radius, the recurrent matrix moves the time radius.
    """

    def memories(self, module: Any, inputs: Tensor) -> Tensor:  # noqa: D102
        memories: Tensor = module.rnn(inputs)[0]
        return memories

    def step(self, module: Any, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:  # noqa: D102
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN differentiates in training mode only, and only once
            after = module.rnn(arrived[None], memory[0][None])[0][0]
        return module.spike_grad(after - module.threshold) * module.graded_spikes_factor, (after,)

    def knobs(self, module: Any) -> Knobs:  # noqa: D102
        inner = module.rnn
        depth = multiplied(_parameter(inner, name) for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"))
        return Knobs(depth, multiplied([inner.weight_hh_l0]), multiplied([_parameter(module, "threshold")]))


class UnsupportedAdapter(NeuronAdapter):
    """Every other neuron: an error that names it."""

    def unpack(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Memory]:
        """Raise ValueError."""
        raise ValueError(
            f"{type(module).__name__}: expected a snnTorch neuron whose step is known, got another; use Leaky, RLeaky, "
            "Synaptic, RSynaptic, Alpha, Lapicque, SLSTM, SConv2dLSTM, StateLeaky, LinearLeaky or LeakyParallel, "
            "or teach it yours with lsc_snn.register_adapter"
        )


def _arguments(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by their names in the module's forward."""
    if getattr(module.spike_grad, "__qualname__", "").startswith("SSO."):
        raise ValueError(
            f"{type(module).__name__}: expected a surrogate with one derivative, got SSO, which draws another in every "
            "backward pass; measure with a surrogate such as atan"
        )
    forward = module.forward
    if not inspect.ismethod(forward):
        return dict(inspect.signature(forward).bind(*args, **kwargs).arguments)
    bound = _signature(forward.__func__).bind(module, *args, **kwargs).arguments
    return dict(list(bound.items())[1:])


def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    """Return a signature, found once for each function: that takes as long as a step of a small neuron."""
    if forward not in _SIGNATURES:
        _SIGNATURES[forward] = inspect.signature(forward)
    return _SIGNATURES[forward]


_SIGNATURES: WeakKeyDictionary[Callable[..., Any], inspect.Signature] = WeakKeyDictionary()


def _parameter(owner: Any, name: str) -> nn.Parameter | None:
    """Return an attribute if it is a parameter: a fixed beta is a buffer."""
    value = getattr(owner, name, None)
    return value if isinstance(value, nn.Parameter) else None


def _decays(
    parameters: Sequence[nn.Parameter | None], decay: Callable[[Tensor], Tensor], raw: Callable[[Tensor], Tensor]
) -> Knob | None:
    """Return the knob that multiplies the decays behind raw parameters, within bounds; None without any."""
    return changed(parameters, lambda p, factor: raw((decay(p.double()) * factor).clamp(DECAY_MIN, DECAY_MAX)))


def _bounded(decay: Tensor) -> Tensor:
    return decay.detach().clamp(0, 1)


def _learnable_and_slow(decay: nn.Parameter) -> tuple[bool, float]:
    return decay.requires_grad, float(_bounded(decay).max())


def _kept_decay(parameter: nn.Parameter) -> Knob | None:
    """Return the knob that multiplies a decay that is not the slowest: up, no farther than where it is now.

    The slowest one makes the radius. With both near 1 the potential would be a sum over sums of the input: the gradient
    grows from step to step though the radius is 1, and few potentials stay near the threshold.
    """
    most = _bounded(parameter)
    return _decays([parameter], _bounded, lambda decay: decay.minimum(most))


def _forget_gates(biases: Sequence[nn.Parameter | None], size: int) -> Knob | None:
    """Return the knob that multiplies the forget gates of no input, sigmoid of the biases at size to 2 size."""
    present = tuple(bias for bias in biases if bias is not None)

    @torch.no_grad()
    def turn(factor: float) -> None:
        rows = [bias[size : 2 * size] for bias in present]
        total = torch.stack(rows).sum(0).double()
        change = torch.logit((torch.sigmoid(total) * factor).clamp(DECAY_MIN, DECAY_MAX)) - total
        for row in [row for bias, row in zip(present, rows, strict=True) if bias.requires_grad][:1]:
            row += change.to(row.dtype)

    return Knob(present, turn) if present else None


def _gates_but_forget(weight: nn.Parameter, size: int, inputs: slice) -> Knob:
    return replace(_scaled(weight, (slice(0, size), inputs), (slice(2 * size, None), inputs)), bounded=True)


def _scaled(weight: nn.Parameter, *parts: tuple[slice, slice]) -> Knob:
    """Return the knob that multiplies parts of a weight."""

    @torch.no_grad()
    def turn(factor: float) -> None:
        for part in parts if weight.requires_grad else ():
            weight[part] *= factor

    return Knob((weight,), turn)


register_adapter(snn.SpikingNeuron, UnsupportedAdapter())
register_adapter(snn.DeltaLeaky, UnsupportedAdapter())
register_adapter(snn.Leaky, NeuronAdapter("mem", decays=("beta",)))
register_adapter(snn.RLeaky, NeuronAdapter("spk", "mem", decays=("beta",)))
register_adapter(snn.Synaptic, NeuronAdapter("syn", "mem", decays=("alpha", "beta")))
register_adapter(snn.RSynaptic, NeuronAdapter("spk", "syn", "mem", decays=("alpha", "beta")))
# The larger decay of Alpha, alpha, cannot be learnt, and the forward of Lapicque does not read its beta.
register_adapter(snn.Alpha, NeuronAdapter("syn_exc", "syn_inh", "mem"))
register_adapter(snn.Lapicque, NeuronAdapter("mem"))
register_adapter(snn.SLSTM, SLSTMAdapter("syn", "mem"))
register_adapter(snn.SConv2dLSTM, SConv2dLSTMAdapter("syn", "mem"))
register_adapter(snn.StateLeaky, StateLeakyAdapter())
register_adapter(snn.LeakyParallel, LeakyParallelAdapter())
