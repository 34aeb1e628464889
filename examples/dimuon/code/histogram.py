"""Fill a histogram of the dimuon mass."""

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--selected", type=Path, required=True, help="selected candidates, CSV")
    parser.add_argument("--mass", type=float, nargs=2, required=True, metavar=("LOW", "HIGH"), help="GeV")
    parser.add_argument("--bins", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="edges (GeV) and counts, JSON")
    arguments = parser.parse_args()

    mass = np.loadtxt(arguments.selected, delimiter=",", skiprows=1, usecols=2, ndmin=1)
    counts, edges = np.histogram(mass, bins=arguments.bins, range=arguments.mass)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"edges": edges.tolist(), "counts": counts.tolist()}) + "\n")
    print(f"{counts.sum()} events in {arguments.bins} bins from {edges[0]:g} to {edges[-1]:g} GeV")


if __name__ == "__main__":
    main()
