"""Tables of the commands: what they say about radii that few points carry."""

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from lsc_snn._cli_tables import report_table, stabilize_table
from lsc_snn.measure import RadiusReport
from lsc_snn.stabilize import StabilizeReport
from lsc_snn.theory import Target

EXPLAINED = "~ a mean that few samples and steps carry: it does not count as reached"
SMOOTH = RadiusReport(
    names=("first", "second"),
    time=torch.tensor([0.5, 0.5]),
    depth=torch.tensor([0.5]),
    encoder=0.5,
    decoder=math.nan,
    rates=torch.tensor([0.1, 0.1]),
)


def shown(table):
    """The text of a table, whatever its lines."""
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize("place", [("encoder", "first"), ("time", "second"), ("depth", "second")])
def test_the_sign_of_a_rough_radius_is_explained_where_one_is_shown(place):
    rough = replace(SMOOTH, errors={place: 0.5})
    assert EXPLAINED not in shown(report_table(SMOOTH, "title"))
    text = shown(report_table(rough, "title"))
    assert "~0.500" in text
    assert EXPLAINED in text
    for before, after in ((rough, SMOOTH), (SMOOTH, rough)):
        result = StabilizeReport(before, after, Target(0.5, 0.5), False, 1, 0.1, (before, after), ())
        assert EXPLAINED in shown(stabilize_table(result, "title", 0.05))
