"""Steps of two knobs that move the radii of each other."""

import math

import pytest
import torch

from lsc_snn.procedures.coupling import Coupling

SLOPES = torch.tensor([[0.55, -0.75], [0.94, 1.0]], dtype=torch.float64)


def follow(coupling, moves, slopes=SLOPES, goals=(0.0, 0.0)):
    """Make moves, one after the other, and return the readings before each and the steps that were said."""
    readings, said = torch.tensor([-0.4, 0.2], dtype=torch.float64), []
    for move in moves:
        said.append((readings, coupling.steps(tuple(readings.tolist()), goals)))
        coupling.note(move)
        readings = readings + slopes @ torch.tensor(move, dtype=torch.float64)
    return [*said, (readings, coupling.steps(tuple(readings.tolist()), goals))]


def test_slopes_are_learnt_from_moves_and_believed_once_they_foretell_a_change():
    said = follow(Coupling(), [(0.3, 0.0), (0.0, 0.3), (0.1, 0.1)])
    assert said[0][1] is None  # nothing is known yet
    readings, steps = said[-1]
    torch.testing.assert_close(readings + SLOPES @ torch.tensor(steps, dtype=torch.float64), torch.zeros(2).double())


def test_a_step_is_no_longer_than_half_as_much_again_as_the_distance_to_go():
    flat = torch.tensor([[1.0, 0.0], [0.0, 0.2]], dtype=torch.float64)
    readings, steps = follow(Coupling(), [(0.3, 0.0), (0.0, 0.3), (0.1, 0.1)], flat)[-1]
    exact = torch.linalg.solve(flat, -readings)
    assert float(exact.norm()) > 1.5 * float(readings.norm())
    torch.testing.assert_close(
        torch.tensor(steps).double(), exact * (1.5 * float(readings.norm()) / float(exact.norm())), rtol=1e-5, atol=0.0
    )


def test_a_long_step_keeps_its_direction():
    coupling = Coupling()
    follow(coupling, [(0.3, 0.0), (0.0, 0.3), (0.1, 0.1)])
    coupling.note((0.0, 0.0))
    steps = coupling.steps((0.0, 3.4), (0.0, 0.0))
    assert max(map(abs, steps)) == pytest.approx(math.log(3.0))
    change = SLOPES @ torch.tensor(steps, dtype=torch.float64)
    assert float(change[0]) == pytest.approx(0.0, abs=1e-9)
    assert float(change[1]) < 0


@pytest.mark.parametrize(
    "slopes",
    [
        torch.tensor([[1.0, 1.0], [1.0, 1.0]]),  # cannot be told apart
        torch.tensor([[-1.0, 0.0], [0.0, 1.0]]),  # a radius that falls as its knob rises
        torch.tensor([[-1.0, 0.0], [0.0, -1.0]]),  # both do
    ],
)
def test_nothing_is_said_where_the_slopes_lead_nowhere(slopes):
    assert follow(Coupling(), [(0.3, 0.0), (0.0, 0.3), (0.1, 0.1)], slopes.double())[-1][1] is None


def test_moves_that_others_made_teach_nothing_and_the_goal_needs_no_step():
    coupling = Coupling()
    follow(coupling, [(0.3, 0.0), (0.0, 0.3), (0.1, 0.1)])
    coupling.forget()
    assert coupling.steps((5.0, 5.0), (0.0, 0.0)) is None
    coupling.note((0.0, 0.0))
    assert coupling.steps((0.0, 0.0), (0.0, 0.0)) is None  # a move of nothing: still not believed
    at_goal = Coupling()
    follow(at_goal, [(0.3, 0.0), (0.0, 0.3), (0.1, 0.1)])
    at_goal.note((0.0, 0.0))
    assert at_goal.steps((0.0, 0.0), (0.0, 0.0)) == (0.0, 0.0)
