"""Draw the dimuon mass spectrum with the fitted model and its pulls."""

import argparse
import json
from pathlib import Path

import lineshape
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

STYLE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.linewidth": 1.0,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "mathtext.fontset": "dejavusans",
}
TOTAL, BACKGROUND = "#c1272d", "#0b6fa4"


def poisson_errors(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper error bars of about 68 % coverage that stay sensible for few events."""
    return counts - np.maximum(counts - np.sqrt(counts + 0.25) + 0.5, 0), np.sqrt(counts + 0.75) + 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histogram", type=Path, required=True, help="edges (GeV) and counts, JSON")
    parser.add_argument("--fit", type=Path, required=True, help="result of the fit, JSON")
    parser.add_argument("--output", type=Path, required=True, help="the plot, PNG or PDF")
    arguments = parser.parse_args()

    histogram, fit = (json.loads(path.read_text()) for path in (arguments.histogram, arguments.fit))
    edges, counts = np.array(histogram["edges"]), np.array(histogram["counts"])
    centres, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    best = np.array([fit["parameters"][name]["value"] for name in lineshape.PARAMETERS])
    mean = sum(lineshape.expected(edges, best))
    fine = np.linspace(edges[0], edges[-1], 10 * len(counts) + 1)
    signal, background = (10 * part for part in lineshape.expected(fine, best))
    curve = (fine[:-1] + fine[1:]) / 2

    mpl.rcParams.update(STYLE)
    figure, (spectrum, pulls) = plt.subplots(
        2, 1, figsize=(7, 6), sharex=True, height_ratios=(4, 1), gridspec_kw={"hspace": 0.06}
    )
    spectrum.fill_between(curve, background, color=BACKGROUND, alpha=0.15, linewidth=0)
    spectrum.plot(curve, background, color=BACKGROUND, linestyle="--", label="Background")
    spectrum.plot(
        curve, signal + background, color=TOTAL, linewidth=1.8, label=r"$\mathrm{Z} \to \mu\mu$ + background"
    )
    filled = counts > 0
    errors = np.array(poisson_errors(counts))[:, filled]
    data = {"fmt": "o", "color": "black", "markersize": 4, "linewidth": 1, "label": "Data"}
    spectrum.errorbar(centres[filled], counts[filled], yerr=errors, **data)
    spectrum.set_ylabel(f"Events / {width:g} GeV")
    spectrum.set_xlim(edges[0], edges[-1])
    spectrum.set_ylim(0, 1.3 * (counts + np.sqrt(counts)).max())
    handles, labels = spectrum.get_legend_handles_labels()
    spectrum.legend(handles[::-1], labels[::-1], frameon=False, loc="upper right")
    lines = [
        rf"$m = {best[0]:.2f} \pm {fit['parameters']['mass']['error']:.2f}$ GeV",
        rf"$\sigma = {best[1]:.2f} \pm {fit['parameters']['resolution']['error']:.2f}$ GeV",
        rf"$N_\mathrm{{Z}} = {best[2]:.0f} \pm {fit['parameters']['signal']['error']:.0f}$",
        rf"$\chi^2 / \mathrm{{ndf}} = {fit['chi2']:.1f} / {fit['degrees_of_freedom']}$",
    ]
    place = {"transform": spectrum.transAxes, "verticalalignment": "top"}
    spectrum.text(0.04, 0.95, "CMS open data, 2010", fontweight="bold", **place)
    spectrum.text(0.04, 0.885, r"pp, $\sqrt{s} = 7$ TeV", **place)
    spectrum.text(0.04, 0.77, "\n".join(lines), linespacing=1.5, **place)

    pulls.axhspan(-1, 1, color="0.9", linewidth=0)
    pulls.axhline(0, color=TOTAL, linewidth=1.2)
    pulls.plot(centres, lineshape.residuals(counts, mean), "o", color="black", markersize=3)
    pulls.set_ylim(-3.5, 3.5)
    pulls.set_yticks([-2, 0, 2])
    pulls.set_ylabel("Pull")
    pulls.set_xlabel(r"$m_{\mu\mu}$ [GeV]")
    figure.align_ylabels()

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=150, bbox_inches="tight")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
