"""The neuron step fused over time: forward and backward of a whole sequence without an autograd graph per step.

``scan`` computes what ``neurons.step`` computes in a loop. Its backward pass is written out, because the local
derivatives of a spiking neuron are elementwise: the surrogate is evaluated once for all steps, each step then costs one
matrix product and a few in-place operations, and the weight gradient is one product over all steps together.
A fused kernel for another device would replace ``_forward`` and ``_backward`` here, and nothing else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsc_snn.neurons import NeuronParameters, NeuronState, Reset, can_spike, count_down, effective_threshold, spike
from lsc_snn.surrogate import Surrogate


class _Rules(NamedTuple):
    surrogate: Surrogate
    reset: Reset
    detach_reset: bool
    refractory: int


class _Trajectory(NamedTuple):
    """Everything that the steps produced, each (T, B, N): spikes, v - A, v, a (LIF: None), counters (or None)."""

    z: Tensor
    margin: Tensor
    v: Tensor
    a: Tensor | None
    refractory: Tensor | None


def scan(current: Tensor, state: NeuronState, parameters: NeuronParameters) -> tuple[Tensor, NeuronState, NeuronState]:
    """Advance a layer over a whole sequence.

    ``current`` I is (T, B, N). Returns the spikes (T, B, N), the final state, and the states after every step, a
    NeuronState of (T, B, N) tensors that carry no gradient: what ``trace`` records.

    Differentiable once, in ``current``, the initial ``v`` and ``a``, and every parameter. For higher derivatives or
    ``torch.func`` transforms loop over ``neurons.step``, which gives the same numbers.
    """
    p = parameters
    rules = _Rules(p.surrogate, p.reset, p.detach_reset, p.refractory)
    out = _Scan.apply(  # type: ignore[no-untyped-call]
        rules, current, state.v, state.a, p.alpha, p.threshold, p.rho, p.beta, p.recurrent, state.refractory
    )
    z, v_last, a_last, _, v, a, refractory = out
    final = NeuronState(v_last, a_last, None if refractory is None else refractory[-1])
    return z, final, NeuronState(v, a, refractory)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        rules: _Rules,
        current: Tensor,
        v: Tensor,
        a: Tensor | None,
        alpha: Tensor,
        threshold: Tensor,
        rho: Tensor | None,
        beta: Tensor | None,
        recurrent: Tensor | None,
        refractory: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        p = NeuronParameters(alpha, threshold, rho, beta, recurrent, *rules)
        path = _forward(current, NeuronState(v, a, refractory), p)
        a_last = None if path.a is None else path.a[-1].clone()
        return path.z, path.v[-1].clone(), a_last, path.margin, path.v, path.a, path.refractory

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        rules, _, *tensors = inputs
        z, _, _, *path = output
        ctx.rules = rules
        ctx.mark_non_differentiable(*(tensor for tensor in path if tensor is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, z, *path)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_v: Tensor | None, grad_a: Tensor | None, *_: Any) -> Any:
        v, a, alpha, threshold, rho, beta, recurrent, refractory, *path = ctx.saved_tensors
        p = NeuronParameters(alpha, threshold, rho, beta, recurrent, *ctx.rules)
        wanted = ctx.needs_input_grad[1:9]
        with torch.no_grad():
            grads = _backward(NeuronState(v, a, refractory), p, _Trajectory(*path), grad_z, grad_v, grad_a, wanted)
        if torch.is_grad_enabled():  # a graph of this pass is asked for
            origins = [x for x in (grad_z, grad_v, grad_a, *ctx.saved_tensors) if x is not None and x.requires_grad]
            grads = tuple(None if g is None else _Once.apply(g, *origins) for g in grads)  # type: ignore[no-untyped-call]
        return None, *grads, None


class _Once(torch.autograd.Function):
    """A gradient that depends on its origins in a way that is not written out: differentiating it is an error.

    ``once_differentiable`` of torch lets it pass as a constant wherever the incoming gradient is one.
    """

    @staticmethod
    def forward(gradient: Tensor, *origins: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("scan: expected one derivative, got a second; loop over lsc_snn.neurons.step instead")


def _soft_reset_as_weights(p: NeuronParameters) -> bool:
    """Say whether the soft reset is a constant matrix: -threshold on the recurrent diagonal."""
    return p.reset == "soft" and p.beta is None and p.recurrent is not None


def _forward(current: Tensor, state: NeuronState, p: NeuronParameters) -> _Trajectory:
    z_all, margin_all, v_all = (torch.empty_like(current) for _ in range(3))
    a_all = None if p.rho is None else torch.empty_like(current)
    refractory_all = None if state.refractory is None else torch.empty_like(current)
    matrix, reset = p.recurrent, p.reset
    if _soft_reset_as_weights(p) and matrix is not None:
        matrix, reset = matrix - torch.diag(p.threshold), "none"
    transposed = None if matrix is None else matrix.T.contiguous()

    v, a, refractory = state
    z, big_a = spike(state, p), effective_threshold(a, p)
    as_ = [None] * len(current) if a_all is None else a_all.unbind(0)
    for drive, z_next, margin, v_next, a_next, t in zip(
        current.unbind(0), z_all.unbind(0), margin_all.unbind(0), v_all.unbind(0), as_, range(len(current)), strict=True
    ):
        kept = v * (1 - z) if reset == "hard" else v
        if transposed is None:
            torch.addcmul(drive, p.alpha, kept, out=v_next)
        else:
            torch.addmm(drive, z, transposed, out=v_next).addcmul_(p.alpha, kept)
        if reset == "soft":
            v_next.addcmul_(big_a, z, value=-1)
        if a_next is not None and a is not None and p.rho is not None and p.beta is not None:
            torch.lerp(z, a, p.rho, out=a_next)
            a, big_a = a_next, torch.addcmul(p.threshold, p.beta, a_next)
        torch.sub(v_next, big_a, out=margin)
        torch.gt(margin, 0, out=z_next)
        if refractory is not None and refractory_all is not None:
            refractory = count_down(refractory, margin > 0, p.refractory)
            refractory_all[t] = refractory
            z_next.mul_(can_spike(refractory, p.refractory))
        v, z = v_next, z_next
    return _Trajectory(z_all, margin_all, v_all, a_all, refractory_all)


def _backward(
    state: NeuronState,
    p: NeuronParameters,
    path: _Trajectory,
    grad_z: Tensor | None,
    grad_v: Tensor | None,
    grad_a: Tensor | None,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of current, v, a, alpha, threshold, rho, beta, recurrent; None where not ``wanted``.

    Notation: ``gv[t]``, ``ga[t]`` are the gradients of v and a after step t, ``q[t]`` that of the margin v - A.
    """
    adaptive = p.rho is not None
    steps = len(path.z)
    q_all = p.surrogate.derivative(path.margin)  # becomes q, in place
    if path.refractory is not None:
        q_all.mul_(can_spike(path.refractory, p.refractory))
    gv_all = torch.empty_like(q_all)
    ga_all = torch.empty_like(q_all) if adaptive else None
    big_a_all = effective_threshold(path.a, p)
    soft_via_matrix = _soft_reset_as_weights(p) and not p.detach_reset
    matrix = p.recurrent - torch.diag(p.threshold) if soft_via_matrix and p.recurrent is not None else p.recurrent
    reset_spike_grad = p.reset != "none" and not p.detach_reset and not soft_via_matrix

    gv: Tensor = gv_all[-1]
    ga: Tensor | None = None

    def through_step(gv: Tensor, ga: Tensor | None, gz: Tensor, v: Tensor, big_a: Tensor, q: Tensor) -> None:
        """From gradients after a step to those before it: ``gz`` becomes the spike's, ``q`` the margin's, in place."""
        if matrix is not None:
            gz.addmm_(gv, matrix)
        if reset_spike_grad:
            gz.addcmul_(gv, big_a if p.reset == "soft" else p.alpha * v, value=-1)
        if ga is not None and p.rho is not None:
            gz.addcmul_(ga, 1 - p.rho)
        q.mul_(gz)

    def state_grads(
        gv: Tensor, ga: Tensor | None, z: Tensor, q: Tensor, gv_out: Tensor, ga_out: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        gv_kept = gv * (1 - z) if p.reset == "hard" else gv
        torch.addcmul(q, gv_kept, p.alpha, out=gv_out)
        if ga is None or ga_out is None or p.rho is None or p.beta is None:
            return gv_out, None
        through_a = torch.addcmul(q, gv, z) if p.reset == "soft" else q
        torch.mul(ga, p.rho, out=ga_out).addcmul_(through_a, p.beta, value=-1)
        return gv_out, ga_out

    gz = torch.empty_like(state.v)
    for t in range(steps - 1, -1, -1):
        gz.zero_() if grad_z is None else gz.copy_(grad_z[t])
        gv_out, ga_out = gv_all[t], None if ga_all is None else ga_all[t]
        if t == steps - 1:  # its state is the final one: no later step, but the caller's own gradients
            q_all[t].mul_(gz)
            gv = gv_out.copy_(q_all[t]) if grad_v is None else torch.add(q_all[t], grad_v, out=gv_out)
            if ga_out is not None and p.beta is not None:
                torch.mul(q_all[t], -p.beta, out=ga_out)
                ga = ga_out if grad_a is None else ga_out.add_(grad_a)
        else:
            through_step(gv, ga, gz, path.v[t], big_a_all[t] if adaptive else big_a_all, q_all[t])
            gv, ga = state_grads(gv, ga, path.z[t], q_all[t], gv_out, ga_out)

    z_first = spike(state, p)
    big_a = effective_threshold(state.a, p)
    q_first = p.surrogate.derivative(state.v - big_a)
    if state.refractory is not None:
        q_first = q_first * can_spike(state.refractory, p.refractory)
    through_step(gv, ga, gz.zero_(), state.v, big_a, q_first)
    gv_first, ga_first = state_grads(
        gv, ga, z_first, q_first, torch.empty_like(gv), None if ga is None else torch.empty_like(ga)
    )

    def over_steps(gradient: Tensor, first: Tensor, later: Tensor) -> Tensor:
        """Return sum over t and samples of gradient[t] times the state before step t."""
        total = (gradient[0] * first).sum(0)
        return total + (gradient[1:] * later[:-1]).sum((0, 1)) if steps > 1 else total

    _, _, _, want_alpha, want_threshold, want_rho, want_beta, want_recurrent = wanted
    grad_alpha = grad_threshold = grad_rho = grad_beta = grad_recurrent = None
    if want_alpha:
        kept_first, kept = state.v, path.v
        if p.reset == "hard":
            kept_first, kept = kept_first * (1 - z_first), kept * (1 - path.z)
        grad_alpha = over_steps(gv_all, kept_first, kept)
    if want_threshold:
        grad_threshold = -q_all.sum((0, 1)) - q_first.sum(0)
        if p.reset == "soft":
            grad_threshold -= over_steps(gv_all, z_first, path.z)
    if adaptive and path.a is not None and state.a is not None and ga_all is not None:
        if want_rho:
            grad_rho = over_steps(ga_all, state.a - z_first, path.a - path.z)
        if want_beta:
            grad_beta = -(q_all * path.a).sum((0, 1)) - (q_first * state.a).sum(0)
            if p.reset == "soft":
                grad_beta -= over_steps(gv_all, z_first * state.a, path.z * path.a)
    if want_recurrent:
        grad_recurrent = gv_all[0].T @ z_first
        if steps > 1:
            grad_recurrent.addmm_(gv_all[1:].flatten(0, 1).T, path.z[:-1].flatten(0, 1))
    return gv_all, gv_first, ga_first, grad_alpha, grad_threshold, grad_rho, grad_beta, grad_recurrent
