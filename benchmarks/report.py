"""Tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(results: dict[str, Any], console: Console) -> None:
    """Print where the benchmark ran, a table of nets, a table of operations and what went wrong."""
    where = results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    console.print(f"{where['date'][:10]}, {where['cpu']}, {where['threads']} threads; {versions}", highlight=False)
    measured = [case for case in results["cases"] if "error" not in case]
    nets = [case for case in measured if case["unit"] == "images"]
    operations = [case for case in measured if case["unit"] != "images"]
    if nets:
        console.print(_nets(nets))
        console.print(
            "Peak memory is the growth over what the libraries take, "
            f"{nets[0]['ours']['memory']['how']} after warm-up minus what was resident before the model was built.",
            highlight=False,
        )
    if operations:
        console.print(_operations(operations, results["machine_reaches"]))
    for case in measured:
        for variant, trial in case["variants_tried"].items():
            if "error" in trial:
                line = f"{case['name']}: {case['rival']}, {variant}, was left out: {trial['error']}"
                console.print(line, markup=False, highlight=False)
    for case in results["cases"]:
        if "error" in case:
            console.print(f"{case['name']} failed: {case['error']}", style="red", markup=False, highlight=False)


def _nets(cases: list[dict[str, Any]]) -> Table:
    rival = cases[0]["rival"]
    table = Table(title=f"images/s; ratio: {rival}'s time / ours, median and quartiles")
    for column in ("case", f"{rival}'s best"):
        table.add_column(column, no_wrap=True)
    for column in ("minires", rival, "ratio", "quartiles", "peak MB", f"{rival} MB", "memory"):
        table.add_column(column, justify="right")
    for case in cases:
        ours, theirs, ratio = case["ours"], case["theirs"], case["ratio"]
        table.add_row(
            case["name"],
            case["variant"],
            f"{ours['per_second']:,.1f}",
            f"{theirs['per_second']:,.1f}",
            f"{ratio['median']:.2f}",
            f"{ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}",
            f"{ours['memory']['growth'] / 1e6:,.0f}",
            f"{theirs['memory']['growth'] / 1e6:,.0f}",
            f"{case['memory_ratio']:.2f}",
        )
    return table


def _operations(cases: list[dict[str, Any]], reached: dict[str, float]) -> Table:
    limits = {
        "FLOP": ("GFLOP/s", reached["matrix_product_GFLOP_per_s"]),
        "B": ("GB/s", reached["copy_GB_per_s"]),
    }
    product, copy = (limit for _, limit in limits.values())
    rival = cases[0]["rival"]
    table = Table(title=f"NumPy reaches {product:,.0f} GFLOP/s in a matrix product and {copy:,.1f} GB/s in a copy")
    for column in ("operation", f"{rival}'s best"):
        table.add_column(column, no_wrap=True)
    for column in ("minires", rival, "", "of NumPy's", "ratio", "quartiles"):
        table.add_column(column, justify="right")
    for case in cases:
        unit, limit = limits[case["unit"]]
        ours, theirs = (case[side]["per_second"] / 1e9 for side in ("ours", "theirs"))
        ratio = case["ratio"]
        table.add_row(
            case["name"],
            case["variant"],
            f"{ours:,.1f}",
            f"{theirs:,.1f}",
            unit,
            f"{100 * ours / limit:.0f} %",
            f"{ratio['median']:.2f}",
            f"{ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}",
        )
    return table
