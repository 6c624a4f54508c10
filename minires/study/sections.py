"""The instruments as sections of a report: each runs on a `Subject` and says what it shows and how to read it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minires.study.decomposition import draw_skip_decomposition, skip_decomposition
from minires.study.degradation import draw_training_curves
from minires.study.errors import StudyError
from minires.study.figure import svg
from minires.study.gradient_flow import draw_gradient_flow, gradient_flow
from minires.study.graph import computation_graph
from minires.study.hessian import draw_hessian_spectrum, hessian_spectrum
from minires.study.highway import draw_gate_openings, gate_openings
from minires.study.jacobian import block_jacobians, draw_block_jacobians
from minires.study.landscape import draw_landscape, loss_landscape
from minires.study.lesions import draw_lesions, lesions
from minires.study.paths import draw_path_gradients, path_gradients
from minires.study.report import Picture, Section, Table
from minires.study.shattering import (
    RECTIFIER_NETS,
    draw_autocorrelation,
    draw_shattering_by_depth,
    gradient_autocorrelation,
    shattering_by_depth,
)
from minires.study.skips import find_skips
from minires.study.subject import Subject
from minires.study.trace import trace, untouched
from minires.training import TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def graph(subject: Subject) -> Section:
    """Show the graph of one block, operation by operation, and of the whole net, block by block."""
    name, net = next(iter(subject.trained().items()))
    images, labels = subject.batch
    skips = find_skips(trace(net, images[:1]))
    pictures, tables = [], []
    inner = skips[len(skips) // 2].name if skips else ""
    if inner and any(inner == module for module, _ in net.named_modules()):
        block = computation_graph(net, images, labels, within=inner)
        pictures.append(Picture(block.svg(), f"The operations of block {inner} and the Tensors between them."))
        tables.append(Table("graph-block", block.rows()))
    whole = computation_graph(net, images, labels, level=2)
    pictures.append(Picture(whole.svg(), f"{name} as a chain of {len(whole.nodes)} nodes, one for each block."))
    tables.append(Table("graph-net", whole.rows()))
    return Section(
        "graph",
        "The computation graph",
        [
            "Each arrow carries a Tensor forward and a gradient back; it is labelled with the shape of the first and "
            "the norm of the second. At the input of a residual block two arrows part, and the gradient that comes "
            "back to it is the sum of what comes back along both.",
        ],
        [f"Block {inner} of {name}, after training, then the whole net."] if inner else [f"{name}, after training."],
        pictures,
        tables,
    )


def flow(subject: Subject) -> Section:
    """Compare the gradient flow of fresh nets."""
    results = {name: gradient_flow(net, *subject.batch) for name, net in subject.fresh().items()}
    findings = []
    for name, result in results.items():
        norms = [layer.gradient.norm for layer in result.layers if layer.gradient and layer.gradient.norm > 0]
        findings.append(
            f"{name}: the gradient's norm is {norms[0]:.3g} at the first layer and {norms[-1]:.3g} at the last, "
            f"{_times(norms[0] / norms[-1])} as much."
        )
    return _section(
        "flow",
        "Gradient flow before training",
        [
            "The norm of the gradient of the loss by each layer's output, and the standard deviation of the outputs, "
            "from the first layer to the last. With batch norm neither kind of net lets them vanish: the difference "
            "between nets with and without skips is not that gradients are too small (He et al. 2015, section 4.1). "
            "Without skips the norm changes by a nearly constant factor a layer, which a logarithmic axis shows as a "
            "slope.",
        ],
        findings,
        draw_gradient_flow,
        results,
    )


def decomposition(subject: Subject) -> Section:
    """Split the gradient at each block's input."""
    name = subject.names[0]
    results = {
        "before training": skip_decomposition(subject.fresh()[name], *subject.batch),
        "after training": skip_decomposition(subject.trained()[name], *subject.batch),
    }
    findings = []
    for when, result in results.items():
        if not any(block.shortcut_norm and block.branch_norm for block in result.blocks):
            findings.append(f"{name} {when}: nothing comes through the branches, or no gradient arrives at all.")
            continue
        ratios = [block.ratio for block in result.blocks if math.isfinite(block.ratio)]
        angles = [block.angle for block in result.blocks if math.isfinite(block.angle)]
        findings.append(
            f"{name} {when}: the branch's part is {min(ratios):.2g} to {max(ratios):.2g} times the shortcut's, at "
            f"angles of {min(angles):.0f} to {max(angles):.0f} degrees; shortcut and branch add up to the whole "
            f"gradient to within {max(block.rest for block in result.blocks):.1g} of their norms."
        )
    return _section(
        "decomposition",
        "What came straight and what came round",
        [
            "At the sum of a residual block the gradient parts. Through an identity shortcut it reaches the block's "
            "input as it is; through the branch it is multiplied by the branch's transposed Jacobian: dL/dx = dL/dy "
            "(1 + dF/dx) (He et al. 2016, equation 5). A branch that brings nearly nothing passes the gradient on; "
            "one at 90 degrees adds something new; one near 180 degrees cancels what came straight.",
        ],
        findings,
        draw_skip_decomposition,
        results,
    )


def paths(subject: Subject) -> Section:
    """Split the gradient at the net's input by path length."""
    name = subject.names[0]
    results = {
        "before training": path_gradients(subject.fresh()[name], *subject.batch),
        "after training": path_gradients(subject.trained()[name], *subject.batch),
    }
    findings = []
    for when, result in results.items():
        first, last = result.lengths[0].mean_norm, result.lengths[-1].mean_norm
        measured = "all paths" if result.exact else f"{sum(length.measured for length in result.lengths)} paths"
        findings.append(
            f"{name} {when}: half of the gradient comes over paths that take {result.median_length} or fewer of the "
            f"{result.blocks} branches. One path that takes none brings {first:.2g}, one that takes all {last:.2g} "
            f"({measured} measured)."
        )
    return _section(
        "paths",
        "Gradient by path length",
        [
            "A net of n residual blocks is a sum over 2^n paths: each takes the branch or the shortcut of every block "
            "(Veit, Wilber and Belongie 2016). Most paths are of middling length (top). Where a branch shrinks the "
            "gradient, one long path brings exponentially less than one short path (middle), and the product of both "
            "(bottom) puts most of the gradient on paths shorter than half of the net.",
            "The dotted lines show the paths of each length together, with their signs: they may cancel, which the "
            "count of single paths does not see. Up to nine blocks every path is measured; beyond, eight of each "
            "length drawn at random, which makes for a rough curve. The dotted one needs no sampling.",
        ],
        findings,
        draw_path_gradients,
        results,
    )


def lesion(subject: Subject) -> Section:
    """Drop and exchange blocks of trained nets."""
    results = {name: lesions(net, *subject.test_batch) for name, net in subject.trained().items()}
    findings = []
    for name, result in results.items():
        single = [found.error for found in result.of_kind("drop one")]
        line = (
            f"{name}: error {_percent(result.error)} as it is; with one block dropped, "
            f"{_percent(sum(single) / len(single))} on average and {_percent(max(single))} at worst."
        )
        if result.kept:
            line += f" {', '.join(result.kept)} could not be bridged: they change the shape."
        findings.append(line)
    return _section(
        "lesions",
        "What happens when blocks are taken out",
        [
            "Blocks of the trained nets are dropped, one at a time and several at random, or exchanged with others, "
            "and the net is tested on held-out images without training it again (Veit, Wilber and Belongie 2016, "
            "section 4). To drop a residual block is to leave its branch out of the sum; in a net without skips the "
            "block's input is handed on. Dotted lines: the intact nets.",
            "A net that behaves like an ensemble of paths loses only the paths through the dropped block, half of "
            "them, and the more blocks it has, the less it misses one. A net without skips has a single path. One that "
            f"has hardly learned has nothing to lose: guessing is wrong in {_percent(1 - 1 / subject.data[2])}.",
        ],
        findings,
        draw_lesions,
        results,
    )


def shattering(subject: Subject) -> Section:
    """Correlate gradients at neighbouring inputs: in fresh nets of all depths, and in the subject."""
    by_depth = {net: shattering_by_depth(net) for net in RECTIFIER_NETS}
    images = subject.data[0].tensors[0][:2].to(subject.options.device)
    if len(images) < 2:
        raise StudyError("a line of inputs leads from one image to another: give two images or more")
    lines = {
        name: gradient_autocorrelation(net, images[0], images[1], points=96) for name, net in subject.fresh().items()
    }
    findings = []
    for net, found in by_depth.items():
        shallow, deep = found.autocorrelations[0], found.autocorrelations[-1]
        findings.append(
            f"{net}: the autocorrelation falls below 1/2 after {_share(shallow.length)} of the line at depth "
            f"{found.depths[0]}, after {_share(deep.length)} at depth {found.depths[-1]}."
        )
    for name, line in lines.items():
        findings.append(
            f"{name}, fresh, from one image to another: the autocorrelation falls below 1/2 after "
            f"{_share(line.length)} of the line."
        )
    tables = [Table(f"shattering-{_slug(net)}", found.rows()) for net, found in by_depth.items()]
    tables += [Table(f"shattering-line-{_slug(name)}", line.rows()) for name, line in lines.items()]
    return Section(
        "shattering",
        "Shattered gradients",
        [
            "How alike are the input gradients at neighbouring inputs? In fresh fully connected nets without skips "
            "their correlation is lost with depth until the gradient is like white noise; with skips it is lost far "
            "more slowly (Balduzzi et al. 2017). First figure: the distance, on a line of inputs, over which the "
            "autocorrelation falls below one half, by depth, for nets as in the paper, means over eight seeds.",
            "Second figure: the same in the nets of this report, along the line from one image to another. No length "
            "below half of the distance between neighbouring inputs can be seen, "
            f"{_share(by_depth['plain'].autocorrelations[0].spacing / 2)} of the line in the first figure and "
            f"{_share(next(iter(lines.values())).spacing / 2)} in the second: there the gradient is white noise.",
        ],
        findings,
        [
            Picture(svg(draw_shattering_by_depth(by_depth)), "Autocorrelation length by depth. " + findings[0]),
            Picture(svg(draw_autocorrelation(lines)), "Autocorrelation by lag. " + findings[-1]),
        ],
        tables,
    )


def jacobian(subject: Subject) -> Section:
    """Find the singular values of each block's Jacobian."""
    name = subject.names[0]
    result = block_jacobians(subject.trained()[name], subject.batch[0], steps=20)
    whole = [block.whole.quantile(0.5) for block in result.blocks]
    branch = [block.branch.quantile(0.5) for block in result.blocks]
    return _section(
        "jacobian",
        "How much each block stretches",
        [
            "The singular values of each block's Jacobian up to the sum, at one image, with and without the shortcut: "
            "median, the range from 10 % to 90 %, and the largest. A gradient that passes through many blocks is "
            "multiplied by all of these. Around an identity with a small branch they crowd about 1; without the "
            "shortcut they spread towards 0.",
        ],
        [
            f"{name}: medians from {min(whole):.2f} to {max(whole):.2f} with the shortcut, "
            f"from {min(branch):.2g} to {max(branch):.2g} without it."
        ],
        draw_block_jacobians,
        {name: result},
    )


def hessian(subject: Subject) -> Section:
    """Compare the spectra of the Hessians of trained nets."""
    results = {}
    for name, net in subject.trained().items():
        with untouched(net, training=True):
            results[name] = hessian_spectrum(net, *subject.batch, steps=20)
    return _section(
        "hessian",
        "The curvature of the loss",
        [
            "The density of the eigenvalues of the Hessian of the loss by all parameters, found by the Lanczos "
            "iteration, on a logarithmic axis; dotted lines mark the largest. Nearly all are close to 0; a few large "
            "ones limit the learning rate, and negative ones show that the point is no minimum. Only nets at "
            "about the same loss compare: one that has fitted its images is flat for that reason alone, and so is one "
            "that has hardly learned.",
        ],
        [
            f"{name}: largest eigenvalue {result.largest:.3g}, smallest {result.smallest:.3g}, at a loss of "
            f"{result.loss:.3g} on these {subject.options.gradient_batch} images, in training mode."
            for name, result in results.items()
        ],
        draw_hessian_spectrum,
        results,
    )


def landscape(subject: Subject) -> Section:
    """Walk away from trained parameters along one and two directions."""
    images, labels = subject.test_batch
    batch = images[:128], labels[:128]
    lines = {name: loss_landscape(net, *batch) for name, net in subject.trained().items()}
    planes = {name: loss_landscape(net, *batch, axes=2, points=11) for name, net in subject.trained().items()}
    findings = [
        f"{name}: loss {line.centre:.3g} at the trained parameters, {line.losses[0]:.3g} and {line.losses[-1]:.3g} at "
        "the ends of the line."
        for name, line in lines.items()
    ]
    return Section(
        "landscape",
        "The loss landscape",
        [
            "The loss on held-out images around the trained parameters, along one and along two random directions "
            "whose filters have the norms of the net's own (Li et al. 2018). At 1 every filter has moved by as much "
            "as it is long. Wide and round valleys are easier to train in than narrow and jagged ones; a flat place at "
            "a high loss is no such valley. A random plane shows few of the directions there are.",
        ],
        findings,
        [
            Picture(svg(draw_landscape(lines)), "Loss along one direction. " + findings[0]),
            Picture(svg(draw_landscape(planes)), "Contours of the loss over two directions."),
        ],
        [Table(f"landscape-line-{_slug(name)}", line.rows()) for name, line in lines.items()]
        + [Table(f"landscape-plane-{_slug(name)}", plane.rows()) for name, plane in planes.items()],
    )


def degradation(subject: Subject) -> Section:
    """Train plain and residual nets of several depths alike."""
    names = [f"{kind}-{depth}" for kind in ("plain", "residual") for depth in subject.options.depths]
    results = {name: subject.contest(name)[1] for name in names}
    return _section(
        "degradation",
        "Why plain nets degrade",
        [
            "Plain and residual nets of several depths, trained alike. A deeper plain net could represent all that a "
            "shallow one can, and yet its training loss ends higher: it is not overfitting, it is harder to train (He "
            "et al. 2015, figure 6). With skips the deeper net ends as low as the shallow one, if there are updates "
            "enough to fit the images; before that, any deeper net may lag.",
        ],
        _training_findings(results),
        draw_training_curves,
        results,
    )


def variants(subject: Subject) -> Section:
    """Train Highway and residual nets and initialisations alike."""
    depth = subject.options.depths[0]
    names = [f"{kind}-{depth}" for kind in ("residual", "highway", "zero-init", "fixup")]
    results = {name: subject.contest(name)[1] for name in names}
    gates = {f"highway-{depth}": gate_openings(subject.contest(f"highway-{depth}")[0], subject.batch[0])}
    section = _section(
        "variants",
        "Gates and initialisations",
        [
            "Four nets of one depth, trained alike: residual blocks initialised by He's rule; Highway blocks, whose "
            "gates weigh branch against shortcut (Srivastava et al. 2015); residual blocks whose last batch norm "
            "starts at 0, so that they begin as identities (Goyal et al. 2017); and Fixup, residual blocks without "
            "batch norm (Zhang et al. 2019). One learning rate serves all four here, which need not suit each.",
            "Second figure: how far the Highway net's gates open on average, after training. They begin at a bias of "
            "-1, which is 0.27.",
        ],
        _training_findings(results),
        draw_training_curves,
        results,
    )
    openings = next(iter(gates.values()))
    return Section(
        section.key,
        section.title,
        section.text,
        section.findings,
        [*section.pictures, Picture(svg(draw_gate_openings(gates)), "Mean opening of the gates by block.")],
        [*section.tables, Table("variants-gates", openings.rows())],
    )


INSTRUMENTS: dict[str, Callable[[Subject], Section]] = {
    "graph": graph,
    "flow": flow,
    "decomposition": decomposition,
    "paths": paths,
    "lesions": lesion,
    "shattering": shattering,
    "jacobian": jacobian,
    "hessian": hessian,
    "landscape": landscape,
    "degradation": degradation,
    "variants": variants,
}
QUICK = ("graph", "flow", "decomposition", "paths", "lesions", "shattering", "jacobian", "hessian", "landscape")


def run_instrument(name: str, subject: Subject) -> Section:
    """Run one instrument by name; one that cannot be run gives a section that says why.

    Raises
    ------
    StudyError
        If there is no such instrument.
    TrainingError
        If a net that it is to study cannot be trained.
    """
    if name not in INSTRUMENTS:
        raise StudyError(f"there is no instrument {name!r}: choose from {', '.join(INSTRUMENTS)}")
    subject.progress(f"running {name}")
    try:
        return INSTRUMENTS[name](subject)
    except TrainingError:  # the other instruments would have no nets either
        raise
    except (ValueError, RuntimeError) as error:
        # A StudyError; an operation that the images are too small or too few for; one without a second derivative.
        return Section(name, name.capitalize(), (), problem=str(error) or type(error).__name__)


def _section(
    key: str,
    title: str,
    text: Sequence[str],
    findings: Sequence[str],
    draw: Callable[[Any], Figure],
    results: Mapping[str, Any],
) -> Section:
    """Return the section of one figure and a table for each result."""
    picture = Picture(svg(draw(results)), f"{title}. " + " ".join(findings))
    return Section(
        key,
        title,
        text,
        findings,
        [picture],
        [Table(f"{key}-{_slug(name)}", result.rows()) for name, result in results.items()],
    )


def _training_findings(results: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: training loss {curve.final_train_loss:.3g} over the last tenth of the steps, test error "
        f"{_percent(curve.final_test_error)}." + (f" {curve.failure}" if curve.failure else "")
        for name, curve in results.items()
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(length: float) -> str:
    return "more than half" if math.isinf(length) else f"{100 * length:.1f} %"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 100 else f"{ratio:.3g} times"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
