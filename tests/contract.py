"""The contract of an adapter: one suite of tests that the tests of every adapter inherit.

A subclass says what a model of a user looks like and what one step of its layer is. Everything is checked against the
user's own forward, run with plain hooks, and against dense float64 Jacobians by ``torch.autograd.functional``.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cases import DEVICES, normal
from lsc_snn import RadiusReport, StabilizeReport, Target, gradient_profile, measure, stabilize
from lsc_snn.grid import Grid
from lsc_snn.trace import trace
from lsc_snn.transition import Transition

Memory = tuple[Tensor, ...]
STEPS, BATCH, NUM_INPUTS = 7, 3, 12


class AdapterContract:
    """What holds for every adapter. Subclass it as ``class TestMyKind(AdapterContract)``.

    To be given: ``kind``, ``model`` and ``one_step``. The attributes say in what a kind differs from the usual.
    """

    kind: type[nn.Module] | tuple[type[nn.Module], ...]
    """Class of the layers."""
    timeless = False
    """Whether the model is feed-forward: its input and output have no time axis, its layers no memory."""
    latency = 0
    """Steps after which an input of a layer reaches its output."""
    decoder_latency = 0
    """Steps after which the output of the last layer reaches the output of the model."""
    closed_forms: tuple[str, ...] = ("time", "depth")
    """The transitions of whose products there is a closed form."""
    reachable: tuple[str, ...] = ("one", "half")
    """Targets that stabilize must reach. Of the others it must say which layer and transition does not, and why."""
    width, stable_width = 6, 32
    """Units of a layer: in the dense checks, and where models are stabilised."""
    stable_steps, stable_batch = 20, 16
    """Time steps and samples of the batch on which models are stabilised."""
    stable_options: dict[str, Any] = {}  # noqa: RUF012
    """More arguments of stabilize."""

    def model(self, layers: int, width: int) -> nn.Module:
        """Return a model of this kind with a forward as users write it, on ``NUM_INPUTS`` features.

        It is made in the default dtype on the CPU, from a seeded random state, and moved afterwards.
        """
        raise NotImplementedError

    def one_step(self, module: nn.Module, arrived: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Return output and next memory of one step of a layer: called as a user calls it, or by its equations.

        ``arrived`` and the tensors of ``memory`` have one sample, (1, ...); the memory is () for a feed-forward layer.
        """
        raise NotImplementedError

    def inputs(self, steps: int, batch: int) -> Tensor:
        """Return a batch (T, B, ...) in float64, (B, ...) where ``timeless``."""
        return normal(batch, NUM_INPUTS, seed=1) if self.timeless else normal(steps, batch, NUM_INPUTS, seed=1)

    def cells(self, model: nn.Module) -> list[nn.Module]:
        """Return the layers of a model, from the input up."""
        return [module for module in model.modules() if isinstance(module, self.kind)]

    def leaving(self, returned: Any) -> Tensor:
        """Return what a layer hands up, from what its forward returns: (B, ...), or (T, B, ...) for a sequence."""
        return returned[0] if isinstance(returned, tuple) else returned

    def with_leaving(self, returned: Any, output: Tensor) -> Any:
        """Return what a layer's forward returns, with another output in it."""
        return (output, *returned[1:]) if isinstance(returned, tuple) else output

    # From here on nothing is for subclasses.

    def build(self, layers: int, width: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.model(layers, width or self.width).to(dtype)

    def traced(self) -> tuple[Grid, list[nn.Module], "HookedRun"]:
        """Return the grid of a model of three layers, its layers, and a run of its own forward."""
        model, x = self.build(3).eval(), self.inputs(STEPS, BATCH)
        grid, cells = trace(model, x, num_times=2), self.cells(model)
        assert len(grid.layers) == len(cells) == 3
        return grid, cells, HookedRun(self, model, x)

    def test_recorded_steps_are_those_of_the_users_forward(self):
        grid, cells, run = self.traced()
        for index, (layer, module) in enumerate(zip(grid.layers, cells, strict=True)):
            assert len(layer.later) == self.latency
            for point, time, sample in _points(grid):
                output, _ = self.one_step(module, *_recorded(layer, point))
                torch.testing.assert_close(output[0].detach(), run.outputs[index].at(time, sample).detach())

    def test_time_transitions_are_the_dense_jacobian_of_one_step(self):
        grid, cells, _ = self.traced()
        for layer, module in zip(grid.layers, cells, strict=True):
            assert bool(layer.memory) is not self.timeless
            dense = self._dense(layer.time(), "time") if layer.memory else None
            for point, _, _ in _points(grid):
                arrived, memory = _recorded(layer, point)
                if dense is not None:
                    expected = self._time_jacobian(module, arrived, memory)
                    # What the user's forward feeds back comes after the memory.
                    torch.testing.assert_close(dense[point, : len(expected), : len(expected)], expected)

    def _dense(self, transition: Transition, kind: str) -> Tensor:
        """Return the Jacobians, which autograd alone has found, once products, by a closed form or not, agree."""
        assert (transition.closed is not None) == (kind in self.closed_forms)
        dense = transition.to_dense()
        u, v = normal(transition.batch, transition.rows, seed=7), normal(transition.batch, transition.cols, seed=8)
        torch.testing.assert_close(transition.rmatvec(u), torch.einsum("krc,kr->kc", dense, u))
        torch.testing.assert_close(transition.matvec(v), torch.einsum("krc,kc->kr", dense, v))
        return dense

    def _time_jacobian(self, module: nn.Module, arrived: Tensor, memory: Memory) -> Tensor:
        shapes = [tensor.shape for tensor in memory if tensor.is_floating_point()]

        def after(flat: Tensor) -> Tensor:
            pieces = iter(flat.split([shape.numel() for shape in shapes]))
            now = tuple(next(pieces).reshape(m.shape) if m.is_floating_point() else m for m in memory)
            _, then = self.one_step(module, arrived, now)
            return torch.cat([tensor.flatten() for tensor in then if tensor.is_floating_point()])

        flat = torch.cat([tensor.flatten() for tensor in memory if tensor.is_floating_point()])
        return torch.autograd.functional.jacobian(after, flat)

    def test_depth_transitions_are_autograd_through_the_users_forward(self):
        grid, _, run = self.traced()
        for index, layer in enumerate(grid.layers):
            dense = self._dense(layer.depth(), "depth")
            for point, time, sample in _points(grid):
                output = run.outputs[index].at(time + self.latency, sample)
                torch.testing.assert_close(dense[point], run.sources[index].jacobian(output, time, sample))

    def test_the_decoder_is_autograd_through_the_users_forward(self):
        grid, _, run = self.traced()
        assert grid.decoder is not None
        dense = grid.decoder.transition().to_dense()
        for point, time, sample in _points(grid):
            output = run.outputs[-1].at(time + self.decoder_latency, sample)
            torch.testing.assert_close(dense[point], run.sources[-1].jacobian(output, time, sample))

    def test_measuring_changes_nothing(self):
        model, x = self.build(2).train(), self.inputs(STEPS, BATCH)
        cells = self.cells(model)
        cells[0].eval()
        cells[1].register_forward_hook(_no_hook)
        output = model(x)
        _first(output).sum().backward()
        next(model.parameters()).requires_grad_(False)
        before, batch = _everything(model), x.clone()
        random_state = torch.get_rng_state()
        measure(model, x, num_times=2)
        gradient_profile(model, x)
        assert torch.equal(torch.get_rng_state(), random_state)
        after = _everything(model)
        assert after.keys() == before.keys()
        for name, value in after.items():
            old = before[name]
            assert value is old or (torch.equal(value, old) if isinstance(value, Tensor) else value == old), name
        assert torch.equal(x, batch)
        assert not x.requires_grad

    def test_measuring_without_gradients_is_the_same(self):
        model, x = self.build(2), self.inputs(STEPS, BATCH)
        expected = measure(model, x, num_times=2)
        with torch.no_grad():
            assert measure(model, x, num_times=2).to_dict() == expected.to_dict()

    def test_gradient_profile_has_an_entry_for_every_step_and_layer(self):
        model, x = self.build(3), self.inputs(STEPS, BATCH)
        profile = gradient_profile(model, x)
        assert profile.shape == (1 if self.timeless else STEPS, 3)
        assert bool(torch.isfinite(profile).all())
        assert bool((profile >= 0).all())

    def test_knobs_keep_layers_valid(self):
        model, x = self.build(3), self.inputs(STEPS, BATCH)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        knobs = [knob for layer in trace(model, x, num_times=2).layers for knob in layer.knobs if knob is not None]
        assert knobs
        for knob in knobs:
            knob.turn(1.0)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name], rtol=1e-6, atol=1e-6)
        for factor in (1e-9, 1e9, 1e9):
            for knob in knobs:
                knob.turn(factor)
        assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())

    @pytest.mark.parametrize("layers", [2, 5])
    @pytest.mark.parametrize("target", ["one", "half"])
    def test_targets_are_reached_and_the_model_stays_the_users_own(self, layers, target):
        model = self.build(layers, self.stable_width, torch.float32)
        x = self.inputs(self.stable_steps, self.stable_batch).float()
        keys, forwards = list(model.state_dict()), [(type(m), type(m).forward) for m in model.modules()]
        sweeps = 50 if target in self.reachable else 10
        result = stabilize(model, x, target=target, **{"max_sweeps": sweeps, **self.stable_options})
        assert result.converged is (target in self.reachable), str(result)
        if not self.timeless:  # to a feed-forward model a target by name means 1
            assert result.target == Target.parse(target, len(x), layers)
        self._check_radii(measure(model, x, method="exact"), result)
        # Nothing of ours is left, and the stabilised parameters are all that another copy of the model needs.
        assert list(model.state_dict()) == keys
        assert [(type(m), type(m).forward) for m in model.modules()] == forwards
        assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        fresh = self.build(layers, self.stable_width, torch.float32)
        fresh.load_state_dict(model.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(_first(fresh.eval()(x)), _first(model.eval()(x)), rtol=0, atol=0)

    def _check_radii(self, report: RadiusReport, result: StabilizeReport) -> None:
        if not result.converged:
            assert result.reasons
            for reason in result.reasons:
                name, _, what = reason.partition(": ")
                assert name in (*report.names, "output")
                assert what.startswith(("encoder", "time", "depth", "decoder", "firing rate"))
            return
        assert not result.reasons
        target = result.target
        wanted = {"encoder": target.depth, "depth": target.depth, "time": target.time, "decoder": 1.0}
        for kind, name, found in report.entries():
            # 0.05 by the estimate of stabilize, here by all eigenvalues.
            assert abs(found - wanted[kind]) < 0.06, f"{kind} {name}: {found}"

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_every_dtype_and_device_gives_the_same_radii(self, dtype, device):
        x = self.inputs(STEPS, BATCH)
        expected = measure(self.build(3), x)
        found = measure(self.build(3, dtype=dtype).to(device), x.to(device, dtype))
        assert found.names == expected.names
        for one, other in zip(found.entries(), expected.entries(), strict=True):
            assert one[2] == pytest.approx(other[2], rel=1e-3, abs=1e-4), one
        torch.testing.assert_close(found.rates, expected.rates, equal_nan=True, rtol=1e-3, atol=1e-4)

    @pytest.fixture
    def one_process(self, tmp_path):
        """A process group of this process alone."""
        store = distributed.FileStore(str(tmp_path / "store"), 1)
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        yield
        distributed.destroy_process_group()

    @pytest.mark.usefixtures("one_process")
    def test_a_model_inside_distributed_data_parallel(self):
        model, x = self.build(2).eval(), self.inputs(STEPS, BATCH)
        expected = measure(model, x)
        wrapped = DistributedDataParallel(model)
        found = measure(wrapped, x)
        assert found.names == tuple(f"module.{name}".rstrip(".") for name in expected.names)
        assert [entry[2] for entry in found.entries()] == pytest.approx([entry[2] for entry in expected.entries()])
        stabilize(wrapped, x, **(self.stable_options | {"max_sweeps": 1}))
        _first(wrapped(x)).sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        _first(model(x)).sum().backward()
        for gradient, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


class Signal:
    """One signal of the user's forward: a tensor (T, B, ...), or (B, ...) for each step."""

    def __init__(self, tensors: list[Tensor], whole: bool) -> None:
        self.tensors, self.whole = tensors, whole

    def at(self, time: int, sample: int) -> Tensor:
        """Return the value at a step, of a sample."""
        return self.tensors[0][time, sample] if self.whole else self.tensors[time][sample]

    def jacobian(self, output: Tensor, time: int, sample: int) -> Tensor:
        """Return d output / d (this signal at a step, of a sample)."""
        leaf = self.tensors[0] if self.whole else self.tensors[time]
        here = (time, sample) if self.whole else (sample,)
        rows = []
        for entry in output.flatten():
            (gradient,) = torch.autograd.grad(entry, leaf, retain_graph=True, materialize_grads=True)
            rows.append(gradient[here].flatten())
        return torch.stack(rows)


class HookedRun:
    """The user's own forward, where zeros are added to what each layer hands up.

    ``sources`` are the model's input and these zeros, from the input up; ``outputs`` what the layers hand up, and the
    model's output. A derivative by the zeros of one step alone is the one that passes through that output.
    """

    def __init__(self, contract: AdapterContract, model: nn.Module, x: Tensor) -> None:
        start = x.clone().requires_grad_()
        cells = contract.cells(model)
        outputs: list[list[Tensor]] = [[] for _ in cells]
        zeros: list[list[Tensor]] = [[] for _ in cells]

        def hook_of(index: int):
            def hook(module: nn.Module, args: Any, returned: Any) -> Any:
                output = contract.leaving(returned)
                outputs[index].append(output)
                zeros[index].append(torch.zeros_like(output, requires_grad=True))
                return contract.with_leaving(returned, output + zeros[index][-1])

            return hook

        handles = [cell.register_forward_hook(hook_of(index)) for index, cell in enumerate(cells)]
        end = _first(model(start))
        for handle in handles:
            handle.remove()
        whole = [not contract.timeless and len(calls) == 1 for calls in outputs]
        self.sources = [Signal([start], not contract.timeless)]
        self.sources += [Signal(*entry) for entry in zip(zeros, whole, strict=True)]
        self.outputs = [Signal(*entry) for entry in zip(outputs, whole, strict=True)]
        self.outputs.append(Signal([end], not contract.timeless))


def _points(grid: Grid) -> list[tuple[int, int, int]]:
    """Return (index, time, sample) of every point."""
    pairs = zip(grid.points.times.tolist(), grid.points.samples.tolist(), strict=True)
    return [(index, time, sample) for index, (time, sample) in enumerate(pairs)]


def _recorded(layer: Any, point: int) -> tuple[Tensor, Memory]:
    return layer.arrived[point, None].detach(), tuple(tensor[point, None].detach() for tensor in layer.memory)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _no_hook(module: nn.Module, args: Any, output: Any) -> None:
    """Stand for a hook of the user's."""


def _everything(model: nn.Module) -> dict[str, Any]:
    """Return all that a model holds, by name: attributes, hooks, flags; tensors as copies, and by identity."""
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found[name] = value.detach().clone()
            found[f"{name} itself"] = id(value)
            found[f"{name} requires_grad"] = value.requires_grad
            if value.is_leaf and value.grad is not None:
                found[f"{name} grad"] = value.grad.clone()
        elif isinstance(value, dict):
            for key, entry in value.items():
                add(f"{name}.{key}", entry)
        elif isinstance(value, tuple | list):
            for key, entry in enumerate(value):
                add(f"{name}.{key}", entry)
        else:
            found[name] = value

    for name, module in model.named_modules():
        add(name, vars(module))
    return found
