"""The instruments as sections of a report: each runs on a `Subject` and says what it shows and how to read it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minires.autograd import Tensor
from minires.nn import Module
from minires.study.blocks import find_blocks
from minires.study.decomposition import SkipGradient, draw_skip_decomposition, skip_decomposition
from minires.study.degradation import TrainingCurve, draw_training_curves
from minires.study.errors import StudyError
from minires.study.figure import svg
from minires.study.gradient_flow import GradientFlow, draw_gradient_flow, gradient_flow
from minires.study.graph import computation_graph
from minires.study.hessian import draw_hessian_spectrum, hessian_spectrum
from minires.study.highway import draw_gate_openings, gate_openings
from minires.study.jacobian import BlockJacobian, block_jacobians, draw_block_jacobians
from minires.study.landscape import draw_landscape, loss_landscape
from minires.study.lesions import draw_lesions, lesions
from minires.study.paths import PathGradients, draw_path_gradients, path_gradients
from minires.study.report import Picture, Section, Table
from minires.study.shattering import (
    RECTIFIER_NETS,
    Autocorrelation,
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
    text = ["Each arrow carries a Tensor forward and a gradient back: its label is the shape of the first and the norm "
            "of the second."]  # fmt: skip
    if skips:
        text.append(
            "At the input of a residual block two arrows part, and the gradient that comes back to it is the sum of "
            "what comes back along both."
        )
    pictures, tables = [], []
    inner = skips[len(skips) // 2].name if skips else ""
    if inner and any(inner == module for module, _ in net.named_modules()):
        block = computation_graph(net, images, labels, within=inner)
        pictures.append(Picture(block.svg(), f"The operations of block {inner} and the Tensors between them."))
        tables.append(Table("graph-block", block.rows()))
    whole = computation_graph(net, images, labels, level=2)
    pictures.append(Picture(whole.svg(), f"{name} as {len(whole.nodes)} nodes: its modules, down to the second level."))
    tables.append(Table("graph-net", whole.rows()))
    return Section(
        "graph",
        "The computation graph",
        text,
        [f"Block {inner} of {name}, after training, then the whole net."]
        if len(pictures) == 2
        else [f"{name}, after training."],
        pictures,
        tables,
    )


def flow(subject: Subject) -> Section:
    """Compare the gradient flow of fresh nets."""
    nets = subject.fresh()
    results = {name: gradient_flow(net, *subject.batch) for name, net in nets.items()}
    return _section(
        "flow",
        "Gradient flow before training",
        [
            "The norm of the gradient of the loss by each layer's output, and the standard deviation of the outputs, "
            "from the first layer to the last. A norm that changes by the same factor at each layer makes a straight "
            "line on this logarithmic axis. He et al. (2015, section 4.1) found that with batch norm gradients do not "
            "vanish in plain nets either: that is not what makes deep ones hard to train.",
        ],
        [_change_through_blocks(name, nets[name], subject.batch[0], result) for name, result in results.items()],
        draw_gradient_flow,
        results,
    )


def _change_through_blocks(name: str, net: Module, images: Tensor, result: GradientFlow) -> str:
    """Say how the norm of the gradient changes from the end of the last block to the first layer."""
    reached = [layer for layer in result.layers if layer.gradient and layer.gradient.norm > 0]
    blocks = {skip.name for skip in find_skips(trace(net, images))} | set(find_blocks(net))
    within = [layer for layer in result.layers if any(f"{layer.name}.".startswith(f"{block}.") for block in blocks)]
    first, last = result.layers[0], (within or result.layers)[-1]
    if first not in reached or last not in reached:
        return f"{name}: no gradient passes from {last.name} to {first.name}."
    begin, end = (layer.gradient.norm for layer in (first, last) if layer.gradient)
    return (
        f"{name}: the gradient's norm is {end:.3g} at {last.name}, {'where the blocks end' if within else 'the last'}, "
        f"and {begin:.3g} at {first.name}, {_times(begin / end)} as much."
    )


def decomposition(subject: Subject) -> Section:
    """Split the gradient at each block's input."""
    name = subject.names[0]
    results = {
        "before training": skip_decomposition(subject.fresh()[name], *subject.batch),
        "after training": skip_decomposition(subject.trained()[name], *subject.batch),
    }
    return _section(
        "decomposition",
        "What came straight and what came round",
        [
            "At the sum of a residual block the gradient parts. Through an identity shortcut it reaches the block's "
            "input as it is; through the branch it is multiplied by the branch's transposed Jacobian: dL/dx = dL/dy "
            "(1 + dF/dx) (He et al. 2016, equation 5). A branch that brings nearly nothing passes the gradient on; "
            "one at 90 degrees adds something new; one near 180 degrees cancels what came straight. Where one of the "
            "two brings nothing at all there is no angle.",
        ],
        [f"{name} {when}: {_parts(result.blocks)}" for when, result in results.items()],
        draw_skip_decomposition,
        results,
    )


def _parts(blocks: Sequence[SkipGradient]) -> str:
    """Say how the two parts of the blocks' gradients compare."""
    both = [block for block in blocks if not math.isnan(block.angle)]
    one = [block for block in blocks if math.isnan(block.angle) and (block.shortcut_norm or block.branch_norm)]
    if not both and not one:
        return "nothing comes through the branches or the shortcuts: no gradient arrives at any block."
    said = []
    if both:
        said.append(
            f"the branch's part is {_range([block.ratio for block in both], '.2g')} times the shortcut's, at an angle "
            f"of {_range([block.angle for block in both], '.0f')} degrees"
        )
    for way, dead in (
        ("branch", [block for block in one if not block.branch_norm]),
        ("shortcut", [block for block in one if not block.shortcut_norm]),
    ):
        if dead:
            said.append(f"nothing comes through the {way} of {len(dead)} of the {len(blocks)} blocks")
    rests = [block.rest for block in blocks if block.feeds_only_this]
    if rests:
        said.append(f"shortcut and branch add up to the whole gradient to within {max(rests):.1g} of their norms")
    return "; ".join(said) + "."


def paths(subject: Subject) -> Section:
    """Split the gradient at the net's input by path length."""
    name = subject.names[0]
    results = {
        "before training": path_gradients(subject.fresh()[name], *subject.batch),
        "after training": path_gradients(subject.trained()[name], *subject.batch),
    }
    found = results["after training"]
    measured = "Every path was measured."
    if not found.exact:
        measured = (
            f"Of each length up to {max(length.measured for length in found.lengths)} paths drawn at random were "
            "measured, which makes for a rough curve. The dotted one needs no sampling."
        )
    return _section(
        "paths",
        "Gradient by path length",
        [
            "A net of n residual blocks is a sum over 2^n paths: each takes the branch or the shortcut of every block "
            "(Veit, Wilber and Belongie 2016). Most paths are of middling length (top). Where a branch shrinks the "
            "gradient, one long path brings exponentially less than one short path (middle), and the product of both "
            "(bottom) leans to the short paths; where it does not, the number of paths decides.",
            "The dotted lines show the paths of each length together, with their signs: they may cancel, which the "
            f"count of single paths does not see. {measured}",
        ],
        [f"{name} {when}: {_by_length(result)}" for when, result in results.items()],
        draw_path_gradients,
        results,
    )


def _by_length(result: PathGradients) -> str:
    """Say over which paths the gradient comes."""
    if not any(length.share for length in result.lengths):
        return "no gradient arrives at the images over any of the measured paths."
    few = result.lengths[: result.blocks // 2 + 1]
    first, last = result.lengths[0].mean_norm, result.lengths[-1].mean_norm
    measured = "all" if result.exact else f"{sum(length.measured for length in result.lengths)} at random"
    return (
        f"paths that take {result.median_length} or fewer of the {result.blocks} branches bring half of the gradient; "
        f"those of at most {result.blocks // 2}, {_percent(sum(length.paths for length in few) / 2**result.blocks)} of "
        f"all paths, bring {_percent(sum(length.share for length in few))}. One path that takes none brings "
        f"{first:.2g}, one that takes all {last:.2g} (of 2^{result.blocks} paths {measured} measured)."
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
            line += f" {', '.join(result.kept)} could not be bridged: what comes out has not the shape of what goes in."
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
        ends = zip(found.depths, found.autocorrelations, strict=True)
        first, *_, last = (f"at depth {depth} it {_reach(curve)}" for depth, curve in ends)
        findings.append(f"{net}, autocorrelation: {first}; {last}.")
    for name, line in lines.items():
        findings.append(f"{name}, fresh, from one image to another: the autocorrelation {_reach(line)}.")
    tables = [Table(f"shattering-{_slug(net)}", found.rows()) for net, found in by_depth.items()]
    tables += [Table(f"shattering-line-{_slug(name)}", line.rows()) for name, line in lines.items()]
    return Section(
        "shattering",
        "Shattered gradients",
        [
            "How alike are the input gradients at neighbouring inputs? Their mean over a line of inputs is taken off, "
            "and the autocorrelation of what is left says over which distance it stays alike. Balduzzi et al. (2017) "
            "found that in fresh nets without skips that distance shrinks with depth, until neighbouring gradients "
            "are as if drawn independently, and in nets with skips far more slowly. First figure: the distance over "
            "which the autocorrelation falls below one half, by depth, for nets as in the paper, means over eight "
            "seeds. Second figure: the autocorrelation in the nets of this report, along the line from one image to "
            "another.",
            "Nothing shorter than the step between neighbouring inputs can be seen: "
            f"{_percent(by_depth['plain'].autocorrelations[0].spacing, 2)} of the line in the first figure and "
            f"{_percent(next(iter(lines.values())).spacing, 2)} in the second.",
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
    return _section(
        "jacobian",
        "How much each block stretches",
        [
            "The singular values of each block's Jacobian up to the sum, at one image, with and without the shortcut: "
            "median, the range from 10 % to 90 %, and the largest; below, the share of them that are zero but for "
            "rounding. A gradient that passes through many blocks is multiplied by all of these.",
            "Where a ReLU inside the branch is closed, nothing passes: so many directions end there, and reach the "
            "block's input by the shortcut alone. Around an identity with a small branch all singular values are "
            "near 1.",
        ],
        [f"{name}: {line}" for line in _stretches(result.blocks)],
        draw_block_jacobians,
        {name: result},
    )


def _stretches(blocks: Sequence[BlockJacobian]) -> list[str]:
    """Say what is known of the singular values of blocks, and of which blocks only bounds are known."""
    lines = []
    known = [block for block in blocks if block.whole.exact and block.branch.exact]
    if known:
        branches, wholes = [block.branch for block in known], [block.whole for block in known]
        lines += [
            f"of the singular values of a branch {_range([100 * part.zero_share for part in branches], '.0f')} % are "
            f"zero, with the shortcut {_range([100 * part.zero_share for part in wholes], '.0f')} %.",
            f"the median is {_range([part.quantile(0.5) for part in wholes], '.2f')} with the shortcut, the largest "
            f"{_range([float(part.values[-1]) for part in wholes], '.2g')}; the 90 % quantile of the branches alone is "
            f"{_range([part.quantile(0.9) for part in branches], '.2g')}, their largest "
            f"{_range([float(part.values[-1]) for part in branches], '.2g')}.",
        ]
    bounded = [block for block in blocks if block not in known]
    if bounded:
        least = [float(block.whole.values[-1]) for block in bounded]
        lines.append(
            f"{', '.join(block.block for block in bounded)}: too large for all singular values to be computed; the "
            f"largest is at least {_range(least, '.2g')} with the shortcut."
        )
    return lines


def hessian(subject: Subject) -> Section:
    """Compare the spectra of the Hessians of trained nets."""
    results = {}
    for name, net in subject.trained().items():
        with untouched(net, training=True):
            results[name] = hessian_spectrum(net, *subject.batch, steps=20)
    count = len(subject.batch[0])
    return _section(
        "hessian",
        "The curvature of the loss",
        [
            "An estimate of the density of the eigenvalues of the Hessian of the loss by all parameters, by the "
            "Lanczos iteration, on a logarithmic axis; dotted lines mark the largest value that was found, which the "
            "largest eigenvalue is not below. Large eigenvalues limit the learning rate, and a negative one shows "
            "that the point is no minimum. Only nets at about the same loss compare: one that has fitted its images "
            "is flat for that reason alone, and so is one that has hardly learned.",
        ],
        [
            f"{name}: the largest eigenvalue is at least {result.largest:.3g}, the smallest at most "
            f"{result.smallest:.3g}, at a loss of {result.loss:.3g} on {count} "
            f"training image{'s' if count > 1 else ''}, in training mode."
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
            f"The loss on {len(batch[0])} held-out images around the trained parameters, along one and along two "
            "random directions whose filters have the norms of the net's own (Li et al. 2018). At 1 every filter has "
            "moved by as much as it is long. Wide and round valleys are easier to train in than narrow and jagged "
            "ones; a flat place at a high loss is no such valley. A random plane shows few of all directions.",
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
        "Depth with and without skips",
        [
            "Plain and residual nets of several depths, trained alike. A deeper plain net could represent all that a "
            "shallow one can; He et al. (2015, figure 6) found that its training loss ends higher all the same, so "
            "that it is not overfitting but harder to train, and that deeper residual nets end lower. With too few "
            "updates to fit the images any deeper net may lag.",
        ],
        _training_findings(results) + _gains_by_depth(results, subject.options.depths),
        draw_training_curves,
        results,
    )


def _gains_by_depth(results: Mapping[str, TrainingCurve], depths: Sequence[int]) -> list[str]:
    """Say for each kind of net how the training loss of the deepest compares with that of the shallowest."""
    low, high = min(depths), max(depths)
    findings = []
    for kind in ("plain", "residual"):
        shallow, deep = (results[f"{kind}-{depth}"].final_train_loss for depth in (low, high))
        if low < high and math.isfinite(shallow) and math.isfinite(deep):
            ends = "higher" if deep > shallow else "lower"
            findings.append(
                f"{kind}: at depth {high} the training loss ends {abs(deep - shallow):.2g} {ends} than at depth {low}."
            )
    return findings


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


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _range(values: Sequence[float], form: str) -> str:
    """Return the least and the greatest of some numbers, or the one that both are."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _reach(found: Autocorrelation) -> str:
    """Say where an autocorrelation falls below one half, no more exactly than neighbouring inputs show it."""
    if math.isinf(found.length):
        return f"stays above 1/2 over {_percent((len(found.values) - 1) * found.spacing)} of the line"
    if found.length < found.spacing:
        return f"is {found.values[1]:.2f} after one step, {_percent(found.spacing, 2)} of the line"
    return f"falls below 1/2 after {_percent(found.length)} of the line"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 100 else f"{ratio:.3g} times"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
