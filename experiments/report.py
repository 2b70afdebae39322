"""The report of the demo: one figure, and one self-contained HTML page. Every number in it comes from the runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from lsc_snn import plots
from lsc_snn.experiments.demo import TOLERANCE, Arm, DemoResult
from lsc_snn.plots import TEXT_SIZE, TITLE_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
img { max-width: 100%; height: auto; border: 1px solid #ddd }
table { border-collapse: collapse } td, th { border-bottom: 1px solid #ddd; padding: .3rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left }
code { background: #f2f2f2; padding: .1rem .3rem } .small { color: #555; font-size: .9rem }
"""


def headline(result: DemoResult) -> str:
    """Return what came out in one sentence: the test accuracy of every arm, at the epoch that validation chose."""
    network = result.config.network
    words = ", ".join(f"{100 * arm.run.test.accuracy:.1f} % {_treatment(arm)}" for arm in result.arms)
    return f"Test accuracy of {network.num_layers} layers of {network.num_units} {network.neuron} units: {words}"


def _treatment(arm: Arm) -> str:
    return "untreated" if arm.treated is None else f"stabilised to {arm.label}"


HEADINGS = (
    "arm", "radii on target", "decades of gradient", "spikes per unit and step", "epochs", "best epoch",
    "validation accuracy (%)", "test accuracy (%)", "training (s)",
)  # fmt: skip


def result_rows(result: DemoResult) -> list[tuple[str, ...]]:
    """Return the results as text, one row an arm, in the order of ``HEADINGS``."""
    rows = []
    for arm in result.arms:
        on_target = "-"
        if arm.treated is not None:
            on_target = "{} of {}".format(*plots.count_reached(arm.after, arm.treated.target, TOLERANCE))
        rates = arm.after.rates.tolist()
        decades = plots.decades(arm.profile)
        rows.append(
            (
                arm.label,
                on_target,
                "-" if decades is None else f"{decades:.1f}",
                f"{min(rates):.3f} to {max(rates):.3f}",
                f"{arm.run.epochs} ({arm.run.status})",
                str(arm.run.best_epoch),
                f"{100 * arm.run.validation.accuracy:.1f}",
                f"{100 * arm.run.test.accuracy:.1f}",
                f"{arm.run.seconds:.0f}",
            )
        )
    return rows


def report_figure(result: DemoResult) -> Figure:
    """Return all pictures of the report as one: radii, gradient over time and depth, training, test accuracy."""
    treated = [arm for arm in result.arms if arm.treated is not None]
    heights = [3.6] * len(treated) + [3.1, 3.6]
    figure = plots.new_figure(12.5, sum(heights))
    figure.suptitle(headline(result), fontsize=TITLE_SIZE + 2.5, fontweight="bold")
    *radii, gradients, training = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
    for part, arm in zip(radii, treated, strict=True):
        _draw_radii(part, arm)
    plots.draw_gradient_heat_maps(gradients, {arm.label: arm.profile for arm in result.arms})
    _draw_training(training, result)
    return figure


def _draw_radii(part: plots.Canvas, arm: Arm) -> None:
    target = None if arm.treated is None else arm.treated.target
    reports = {"before": arm.before, "after": arm.after}
    plots.draw_radii_pair(part, reports, target=target, tolerance=TOLERANCE)
    if target is not None:
        title = f"{arm.label}: {plots.radii_sentence(reports, target, TOLERANCE)}"
        part.suptitle(title, fontsize=TITLE_SIZE + 1)


def _draw_training(part: plots.Canvas, result: DemoResult) -> None:
    left, middle, right = part.subplots(1, 3, width_ratios=(3, 3, 2))
    loss = {arm.label: [row.train_loss for row in arm.run.history] for arm in result.arms}
    accuracy = {
        arm.label: [arm.run.initial.accuracy, *(row.validation_accuracy for row in arm.run.history)]
        for arm in result.arms
    }
    plots.draw_training(left, middle, loss, accuracy)
    chance = 1 / result.config.network.num_classes
    plots.draw_test_accuracy(right, {arm.label: arm.run.test.accuracy for arm in result.arms}, chance=chance)
    right.tick_params(labelsize=TEXT_SIZE)


def report_html(result: DemoResult) -> str:
    """Return the report as one HTML page that loads nothing: its figures are inside it."""
    treated = [arm for arm in result.arms if arm.treated is not None]
    parts = [f"<h1>{escape(headline(result))}</h1>", _table(HEADINGS, result_rows(result))]
    parts.append(
        "<p class='small'>Radii and gradient before the first training step; the epoch is chosen on the validation "
        "samples, the test samples are looked at once.</p>"
    )
    for arm in treated:
        figure = plots.new_figure(10, 4.0)
        _draw_radii(figure, arm)
        parts += [f"<h2>Radii before and after stabilising to {escape(arm.label)}</h2>", _image(figure, "radii")]
        if arm.treated is not None and arm.treated.reasons:
            parts.append("".join(f"<p class='small'>{escape(reason)}</p>" for reason in arm.treated.reasons))
    profiles = {arm.label: arm.profile for arm in result.arms}
    parts += ["<h2>The gradient over time and depth</h2>", _image(plots.gradient_figure(profiles), "gradient norms")]
    training = plots.new_figure(12, 3.8)
    _draw_training(training, result)
    parts += ["<h2>Training</h2>", _image(training, "loss, validation accuracy and test accuracy"), _settings(result)]
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>lsc-snn demo</title>"
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _settings(result: DemoResult) -> str:
    config, network = result.config, result.config.network
    options = ", ".join(f"{name} {value}" for name, value in network.layer.items()) or "defaults"
    size = f"{network.num_inputs} inputs, {network.num_layers} x {network.num_units} {network.neuron}"
    rows = [
        ("network", f"{size}: {options}"),
        ("training", f"AdamW, learning rate {config.learning_rate:g}, batches of {config.batch_size}, "
                     f"at most {config.epochs} epochs, seed {config.seed}"),
        ("samples", ", ".join(f"{part['samples']} {name}" for name, part in result.arms[0].run.data.items())),
        ("machine", ", ".join(f"{name} {value}" for name, value in result.machine.items())),
        ("time", f"{result.seconds:.0f} s in all"),
        ("method", "Herranz-Celotti and Rouat, Stabilizing RNN Gradients through Pre-training, arXiv 2308.12075"),
    ]  # fmt: skip
    return "<h2>What was run</h2>" + _table(("", ""), rows) + "<p>Again: <code>lsc-snn demo</code></p>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _image(figure: Figure, alt: str) -> str:
    data = base64.b64encode(plots.to_png(figure, dpi=110)).decode()
    return f"<img alt='{escape(alt)}' src='data:image/png;base64,{data}'>"
